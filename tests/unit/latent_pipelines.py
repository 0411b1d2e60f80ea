"""Pipelines of latents as diffusers and transformers save them: a few thousand random weights each, and CLIP's real tokenizer."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

MERGES = 48_894  # of CLIP's, which its vocabulary is built from
START, END = "<|startoftext|>", "<|endoftext|>"
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}
SDXL: dict[str, Any] = {
    **UNET,
    "cross_attention_dim": 40,
    "use_linear_projection": True,
    "transformer_layers_per_block": [1, 1],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 12 + 6 * 8,
}
VAE: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "sample_size": 16,
}
# The published U-Nets at their full size, for the meta device.
SD15 = {
    "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
LSUN = {
    "sample_size": 64, "in_channels": 3, "out_channels": 3, "block_out_channels": [224, 448, 672, 896], "attention_head_dim": 32,
    "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * 3, "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"],
}  # fmt: skip
XL = {
    "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STABLE = {**BETAS, "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}  # Stable Diffusion's file


def moved(net: torch.nn.Module) -> torch.nn.Module:
    """The network with every weight moved, so that no part of it starts as nothing."""
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=random))
    return net.eval().requires_grad_(False)


def unet(**changes: Any) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return moved(UNet2DConditionModel.from_config({**UNET, **changes}))


def autoencoder(**changes: Any) -> torch.nn.Module:
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    return moved(AutoencoderKL.from_config({**VAE, **changes}))


def text_encoder(width: int = 16, projected: int | None = None) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2 + width)
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.CLIPTextConfig(vocab_size=49408, projection_dim=projected or 8, bos_token_id=49406, eos_token_id=49407, **shape)
    return moved((transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config))


def byte_symbols() -> list[str]:
    """How each byte is written in byte-level BPE: as itself where it can be shown, the others by the letters from 256 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in shown] + [chr(256 + k) for k in range(256 - len(shown))]


def write_tokenizer(folder: Path, pad: str = END) -> Any:
    """CLIP's own vocabulary and merges, out of the package that carries them; returns the library's tokenizer, saved."""
    transformers, package = pytest.importorskip("transformers"), find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        pytest.skip("open_clip, which carries CLIP's merges, is not installed")
    with gzip.open(Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : MERGES + 1]
    symbols = byte_symbols()
    words = [*symbols, *(s + "</w>" for s in symbols), *("".join(merge.split()) for merge in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    named = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    settings = {**named, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(named), encoding="utf-8")
    return transformers.CLIPTokenizer.from_pretrained(folder)


def stable_diffusion(folder: Path, scheduler: Any = None) -> Any:
    """A pipeline in Stable Diffusion 1.5's layout."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=text_encoder(), tokenizer=write_tokenizer(folder), unet=unet(),
        scheduler=scheduler or PNDMScheduler(skip_prk_steps=True, steps_offset=1, **BETAS),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl(folder: Path, scheduler: Any = None) -> Any:
    """A pipeline in SDXL's layout: its second tokenizer pads with "!"."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025), text_encoder=text_encoder(), text_encoder_2=text_encoder(24, 12),
        tokenizer=write_tokenizer(folder / "1"), tokenizer_2=write_tokenizer(folder / "2", pad="!"), unet=unet(**SDXL),
        scheduler=scheduler or EulerDiscreteScheduler(steps_offset=1, **BETAS), force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )  # fmt: skip
