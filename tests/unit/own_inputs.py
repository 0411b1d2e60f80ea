"""Images and teachers as users bring them: folders and zips of PNGs, EDM's pickles and pipelines of diffusers, all with random content."""

import zipfile
from pathlib import Path

import numpy as np
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from edm_pickles import foreign_ema, randomised, write_checkpoint
from PIL import Image

from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration

TINY_UNET = {  # of the diffusers library
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


def write_images(folder: Path, n: int = 500, n_classes: int = 0, side: int = 32, colour: bool = False) -> Path:
    """PNGs, in as many folders as there are classes."""
    rng = np.random.default_rng(0)
    for k in range(n):
        path = folder / (f"class{k % n_classes}" if n_classes else "") / f"{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3) if colour else (side, side), dtype=np.uint8)).save(path)
    return folder


def write_zip(path: Path, source: Path) -> Path:
    """The images of a folder, every fifth in test/, the others in train/."""
    with zipfile.ZipFile(path, "w") as archive:
        for k, image in enumerate(sorted(source.rglob("*.png"))):
            archive.write(image, f"{'train' if k % 5 else 'test'}/{image.relative_to(source)}")
    return path


def write_edm(path: Path, preconditioning: object = None, label_dropout: float = 0, **changes: object) -> Path:
    """A checkpoint in EDM's format: a tiny network of three channels and 16x16 pixels."""
    shape = {"in_channels": 3, "out_channels": 3, "model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": ()}
    net = SongUNetConfiguration(**{**shape, "img_resolution": 16, **changes})
    configuration = EDMTeacher(preconditioning=preconditioning or EDM(), net=net, label_dropout=label_dropout)
    return write_checkpoint(path, foreign_ema(randomised(configuration), configuration))


def write_diffusers(folder: Path, scheduler: object = None, **changes: object) -> Path:
    """What `save_pretrained` of a pipeline of pixels writes: likewise."""
    shape = {**TINY_UNET, "sample_size": 16, "in_channels": 3, "out_channels": 3}
    DDPMPipeline(UNet2DModel(**{**shape, **changes}), scheduler or DDPMScheduler()).save_pretrained(folder)
    return folder
