"""A published first stage at work: real images to latents and latents to images, in float32 whatever the teacher computes in.

SDXL's overflows in half precision, and latents are scaled in one place (`nets/diffusers_autoencoder.py`).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backtrail.data.dataset import Labelled, to_float, to_uint8
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.diffusers_autoencoder import DiffusersAutoencoder
from backtrail.parameters.latent import LatentTeacher
from backtrail.randomness import image_noise
from backtrail.sampling.sample import Sampler, sample
from backtrail.teachers.diffusers import import_autoencoder
from backtrail.tensors import load_tensors, save_tensors

PARTS = ("vae", "vqvae")  # what a pipeline calls its first stage


@dataclass(frozen=True)
class FirstStage:
    """A first stage where it computes, with the number of images that it takes at a time."""

    net: DiffusersAutoencoder
    batch: int
    device: torch.device

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images uint8 [n, 3, H, W], on the CPU, of scaled latents [n, c, h, w]."""
        return torch.cat([to_uint8(self.net.decode(z.to(self.device))).cpu() for z in latents.split(self.batch)])

    @torch.no_grad()
    def encode(self, images: Tensor, sampled: bool, first: int = 0) -> Tensor:
        """Scaled latents float32 [n, c, h, w], on the CPU, of images uint8 [n, 3, H, W], of which the first has the number `first`.

        sampled: of the posterior, with the noise of image i a function of i alone; else its mean. A VQModel's have no posterior.
        """
        found = []
        for k, part in enumerate(images.split(self.batch)):
            x = to_float(part).to(self.device)
            mean = self.net.encode(x)
            if sampled and not self.is_quantised:
                rows = range(first + k * self.batch, first + k * self.batch + len(part))
                mean = self.net.encode(x, image_noise(rows, tuple(mean.shape[1:]), "posterior-real").to(self.device))
            found.append(mean.cpu())
        return torch.cat(found)

    @property
    def is_quantised(self) -> bool:
        """Whether it is a VQModel."""
        return type(self.net.net).__name__ == "VQModel"

    def images(self, model: NetDenoiser, sampler: Sampler, indices: range) -> Tensor:
        """Images `indices` of a model, uint8 [n, 3, H, W]: image i depends on seed i and its caption alone."""
        return self.decode(sample(model, sampler, indices, model.image_shape, model.conditions, device=self.device))


def load_first_stage(folder: str | Path, p: LatentTeacher, device: torch.device | str = "cpu") -> FirstStage:
    """The first stage in a pipeline's folder. Raises UserError if there is none, or not one alone."""
    parts = [Path(folder) / part for part in PARTS if (Path(folder) / part).is_dir()]
    if len(parts) != 1:
        raise UserError(f"{folder} has {len(parts)} first stages: expected one of {' and '.join(f'{part}/' for part in PARTS)}")
    net = import_autoencoder(parts[0], p.first_stage_scale)
    return FirstStage(net.to(device), p.decode_batch, torch.device(device))


def check_fits(teacher: NetDenoiser, stage: FirstStage, resolution: int) -> None:
    """Raises UserError unless the teacher's latents are those of images of `resolution` pixels."""
    with torch.no_grad():
        found = tuple(stage.net.encode(torch.zeros(1, 3, resolution, resolution, device=stage.device)).shape[1:])
    if found != tuple(teacher.image_shape):
        raise UserError(
            f"data.resolution = {resolution}: its first stage makes latents of {list(found)}, the teacher's are {list(teacher.image_shape)}"
        )


def save_latents(path: str | Path, latents: Tensor, rows: Tensor, sampled: bool, **extra: str) -> None:
    """Write latents float32 [n, c, h, w] and the rows int64 [n] of their texts (`LatentPrompts`); `extra`: digests beside."""
    save_tensors(path, {"latents": latents, "rows": rows}, {"posterior": "sample" if sampled else "mean", **extra})


def load_latents(path: str | Path, told: bool) -> Labelled:
    """Read them back, without rows where nothing is told. Raises UserError if the file is absent, damaged, or holds something else."""
    tensors, _ = load_tensors(path)
    if set(tensors) != {"latents", "rows"}:
        raise UserError(f"{path} is no archive of latents: run the stage `latent-latents` again")
    return Labelled(tensors["latents"], tensors["rows"] if told else None)
