"""The files of suites of published latent teachers, in their published layouts and under their names, with tiny random weights.

Pipelines are made and saved by diffusers and transformers themselves; CLIP's tokenizer is the real one.
"""

import dataclasses
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from latent_pipelines import VAE, moved, sdxl, stable_diffusion, write_tokenizer
from original_names import original
from own_inputs import TINY_UNET
from PIL import Image
from random_inception import write_random_weights
from safetensors.torch import save_file

from backtrail.data import latent_sources, sources
from backtrail.data.latent_sources import weight_files

SINGLE_FILE = "sd_xl_base_1.0.safetensors"
SIDE = 16  # of images; latents have half of it
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
LDM_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}


def write_photographs(path: Path, n: int) -> list[str]:
    """A zip of JPEG files of many shapes with COCO's names, one of them grey; returns the names."""
    rng, names = np.random.default_rng(0), [f"COCO_val2014_{k:012d}.jpg" for k in range(1, n + 1)]
    with zipfile.ZipFile(path, "w") as archive:
        for k, name in enumerate(names):
            height, width = 20 + 3 * (k % 4), 36 - 5 * (k % 3)
            pixels = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8).repeat(4, 0).repeat(4, 1)[:height, :width]
            file = io.BytesIO()
            (Image.fromarray(pixels).convert("L") if k == 1 else Image.fromarray(pixels)).save(file, "jpeg")
            archive.writestr(f"val2014/{name}", file.getvalue())
    return names


def write_captions(folder: Path, names: list[str], n_training: int = 6) -> None:
    """COCO's annotations with a caption that is measured under among them, and a text of captions with one that stands there twice."""
    told = [f"a photo of {n} cats" for n in ("two", "three", "four")]
    (folder / "captions_coco14_test.txt").write_text("\n".join([*told, told[0]]) + "\n", encoding="utf-8")
    (folder / "coco10k_prompts.txt").write_text("\n".join(told) + "\n", encoding="utf-8")
    lines = [f"a dog number {k}" for k in range(n_training)]
    (folder / "prompts.txt").write_text("\n".join([told[1], *lines]) + "\n", encoding="utf-8")
    images = [{"id": k, "file_name": name} for k, name in enumerate(names)]
    said = [told[0], *(lines[k % n_training] for k in range(len(names) - 1))]
    annotations = [{"image_id": k, "id": 10 + k, "caption": f"{text} "} for k, text in enumerate(said)]
    (folder / "captions_train2014.json").write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")


def write_stable_diffusion(folder: Path, two: bool) -> None:
    """The folders of Stable Diffusion 1.5, or with `two` encoders those of SDXL, plain files of the tokenizers as they are published."""
    (sdxl if two else stable_diffusion)(folder / "made").save_pretrained(folder)
    for part, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")) if two else (("tokenizer", "<|endoftext|>"),):
        shutil.rmtree(folder / part)
        write_tokenizer(folder / part, pad)
    shutil.rmtree(folder / "made")


def write_latent_diffusion(folder: Path) -> None:
    """The folders that diffusers' conversion writes: an unconditional U-Net, a first stage with a codebook, a scheduler."""
    from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel, VQModel

    torch.manual_seed(0)
    vqvae = moved(VQModel(**{**VAE, "latent_channels": 3, "num_vq_embeddings": 16, "vq_embed_dim": 3}))
    unet = moved(UNet2DModel(**{**TINY_UNET, "sample_size": SIDE // 2, "in_channels": 3, "out_channels": 3}))
    LDMPipeline(vqvae, unet, DDIMScheduler(**LDM_BETAS, clip_sample=False)).save_pretrained(folder)


def write_clip(path: Path, patch: pytest.MonkeyPatch, name: str = "ViT-g-14") -> None:
    """A model of open_clip's classes, tiny, whose configuration stands here under a published name."""
    open_clip = pytest.importorskip("open_clip")
    patch.setitem(open_clip.factory._MODEL_CONFIGS, name, TINY_CLIP)
    torch.manual_seed(3)
    model = open_clip.create_model(name, load_weights=False)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)


def write_inception(folder: Path) -> None:
    """Inception's state dict, under its published name."""
    (file,) = sources.SOURCES["inception-2015-12-05"].files
    write_random_weights(folder / file.name)


def unpin(patch: pytest.MonkeyPatch) -> None:
    """Other bytes take the places of published files here: digests and lengths are taken out of the registries."""
    for registry in (sources.SOURCES, latent_sources.LATENT_TEACHERS, latent_sources.LATENT_FILES):
        for name, source in list(registry.items()):
            free = [dataclasses.replace(f, sha256=None, size_bytes=None, served_bytes=None, served_md5=None) for f in source.files]
            patch.setitem(registry, name, dataclasses.replace(source, files=tuple(free)))


def write_suite_files(folder: Path, suite: str, patch: pytest.MonkeyPatch) -> None:
    """All that `suites/SUITE` fetches."""
    folder.mkdir(parents=True)
    write_inception(folder)
    names = write_photographs(folder / {"sd15": "val2014.zip", "sdxl": "coco10k.zip", "lsun-bedroom": "lsun-bedroom-256.zip"}[suite], 8)
    if suite == "lsun-bedroom":
        write_latent_diffusion(folder)
        return
    write_captions(folder, names)
    write_stable_diffusion(folder, two=suite == "sdxl")
    if suite == "sdxl":  # with its weights in one file, as `latent.single_file` names it
        save_file(original(folder, two=True), folder / SINGLE_FILE)
        for name in weight_files("teacher-sdxl"):
            (folder / name).unlink()
    write_clip(folder / f"vit-g-14-laion2b-{'s34b-b88k' if suite == 'sd15' else 's12b-b42k'}.safetensors", patch)


def small(values: dict[str, Any], licence: str) -> dict[str, Any]:
    """A suite's own parameters with every size made small; what is a choice and no size stays, as do the names of files."""
    p = {**values, "seeds": [0], "runtime": {"threads": 1, "micro_batch": 2, "checkpointing": True}}
    p["latent"] |= {"local": "originals", "accept_licence": licence, "decode_batch": 3}
    if p["suite"] == "sdxl":
        p["latent"] |= {"single_file": SINGLE_FILE}
    p["data"] |= {"resolution": SIDE, "n_floor": 4} | ({"n_reference": 6} if "n_reference" in p["data"] else {})
    if p["data"]["n_latents"]:
        p["data"] |= {"n_latents": 3}
    if p["prompts"] is not None:
        p["prompts"] |= {"batch": 2}
        for of in ("training", "evaluation"):
            p["prompts"][of].pop("count", None)
        if "time_ids" in p["prompts"]:
            p["prompts"] |= {"time_ids": [SIDE, SIDE, 0, 0, SIDE, SIDE]}
    for sampler in p["teacher_samples"]["samplers"].values():
        sampler["num_steps"] = [3]
    for method in p["score_distillation"].values():
        method |= {"updates": 3, "node_updates": 1, "evaluate_every": 3}
        method["recording"] |= {"steps": 3, "nodes": 3, "candidates": 1, "evaluation_batch": 2}
        if "lora" in method["recording"]:
            method["recording"]["lora"] |= {"rank": 2}
    for name, method in p["trajectory_distillation"].items():
        method |= {"rounds": 2, "batch": 2, "pool": 2, "evaluate_every": 2, "substeps": 2}
        if p["students"][name].get("num_steps"):
            p["students"][name] |= {"num_steps": [4, 5]}
    p["evaluation"] |= {"n_curve": 2, "batch_size": 4}
    kept = {}
    for of in p["evaluation"]["frechet"]:
        kept[of["images"], of["resize"]] = of | {"n_images": 4}
    p["evaluation"]["frechet"] = list(kept.values())
    for of in p["evaluation"].get("clip", []):
        of |= {"n_images": 3}
    return p
