"""Weights of a pipeline by the names of the original codes (Stable Diffusion, SDXL, open_clip), from how those count their blocks."""

import re
from pathlib import Path

import torch
from latent_pipelines import UNET, VAE
from safetensors.torch import load_file
from torch import Tensor

from backtrail.data.latent_sources import weight_files

Weights = dict[str, Tensor]
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
ENDS = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2"}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def of_unet(name: str) -> str:
    """The original code's name of a weight of the U-Net (openaimodel.py): blocks are counted from the image down, and up again."""
    for part, old in ENDS.items():
        if name.startswith(f"{part}."):
            return name.replace(part, old)
    if middle := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, k, rest = middle.groups()
        return f"middle_block.{2 * int(k) if kind == 'resnets' else 1}.{of_layer(kind, rest)}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name)
    assert found is not None, name
    way, level, kind, k, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    in_level = UNET["layers_per_block"] + 1  # a level's blocks and its downsampler; its blocks, one more on the way up
    if way == "down":
        if kind == "downsamplers":
            return f"input_blocks.{in_level * (level + 1)}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{1 + in_level * level + k}.{int(kind == 'attentions')}.{of_layer(kind, rest)}"
    if kind == "upsamplers":  # after the attention of the level's last block, where it has one
        has_attention = UNET["up_block_types"][level].startswith("CrossAttn")
        return f"output_blocks.{in_level * (level + 1) - 1}.{1 + has_attention}.{rest}"
    return f"output_blocks.{in_level * level + k}.{int(kind == 'attentions')}.{of_layer(kind, rest)}"


def of_layer(kind: str, rest: str) -> str:
    if kind != "resnets":
        return rest
    layer, _, last = rest.rpartition(".")
    return f"{RESNET[layer]}.{last}"


def of_autoencoder(name: str, value: Tensor) -> tuple[str, Tensor]:
    """The same of the first stage (model.py of the decoder and encoder): its attention are convolutions of one pixel."""
    last = len(VAE["block_out_channels"]) - 1
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{last - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
    if found := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.*)\.(weight|bias)", name):
        is_product = found[2] != "group_norm" and found[3] == "weight"
        return f"{found[1]}mid.attn_1.{ATTENTION[found[2]]}.{found[3]}", value[:, :, None, None] if is_product else value
    return name, value


def of_second_encoder(weights: Weights) -> Weights:
    """By open_clip's names: query, key and value joined, the projection transposed."""
    made: Weights = {}
    for name, value in weights.items():
        if name == "text_projection.weight":
            made["text_projection"] = value.T
        elif name.endswith(("q_proj.weight", "q_proj.bias")):
            joined = torch.cat([weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
            layer = re.search(r"layers\.(\d+)", name)
            assert layer is not None
            made[f"transformer.resblocks.{layer[1]}.attn.in_proj_{name.rsplit('.', 1)[1]}"] = joined
        elif not re.search(r"[kv]_proj", name):
            name = name.removeprefix("text_model.").replace("encoder.layers", "transformer.resblocks").replace("self_attn", "attn")
            name = name.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2").replace("fc1", "c_fc").replace("fc2", "c_proj")
            name = name.replace("final_layer_norm", "ln_final").removeprefix("embeddings.")
            made[name.replace("position_embedding.weight", "positional_embedding")] = value
    return made


def original(folder: Path, two: bool) -> Weights:
    """A pipeline's weights as the original code keeps them, with what else lies in such a file."""
    load = {part: load_file(folder / name) for part, name in names_of(two).items()}
    made = {f"model.diffusion_model.{of_unet(name)}": value for name, value in load["unet"].items()}
    made |= {f"first_stage_model.{new}": moved for new, moved in (of_autoencoder(*item) for item in load["vae"].items())}
    # As the published files have it, and as transformers before 5.6 wrote it.
    first = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load["text_encoder"].items()}
    prefix = "conditioner.embedders.0.transformer." if two else "cond_stage_model.transformer."
    made |= {prefix + name: value for name, value in first.items()}
    if two:
        second = of_second_encoder(load["text_encoder_2"])
        made |= {f"conditioner.embedders.1.model.{name}": value for name, value in second.items()}
        made["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    made |= {"alphas_cumprod": torch.rand(1000), f"{prefix}text_model.embeddings.position_ids": torch.arange(77)[None]}
    return {name: value.contiguous() for name, value in made.items()}


def names_of(two: bool) -> dict[str, str]:
    return {Path(name).parent.name: name for name in weight_files("teacher-sdxl" if two else "teacher-sd15")}
