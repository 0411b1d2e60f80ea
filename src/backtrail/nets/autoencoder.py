"""The first stage of a small latent diffusion model: a KL autoencoder (Rombach et al. 2022, arXiv 2112.10752) four times smaller per side.

A pixel-unshuffle stem of 2, then one convolution with stride 2; two levels of channels, one residual block each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backtrail.errors import UserError
from backtrail.nets.blocks import laid_out, norm_silu
from backtrail.nets.convolution import Convolution
from backtrail.nets.weights import fill
from backtrail.parameters.base import validate
from backtrail.parameters.text import AutoencoderParameters
from backtrail.randomness import derive_seed
from backtrail.tensors import load_tensors, save_tensors

FACTOR = 4  # pixels per latent and side
STEM = 2
LOGVAR = (-30.0, 20.0)  # as latent diffusion clamps it


@dataclass(frozen=True)
class Posterior:
    """q(z | x) = N(mean, exp(logvar)), both [B, C, h, w]."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise."""
        return self.mean + (self.logvar / 2).exp() * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) of each image, summed over its latents, [B]."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).flatten(1).sum(dim=1)


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), [B, C, H, W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, channels), Convolution(channels, channels, 3)
        self.norm2, self.conv2 = nn.GroupNorm(8, channels), Convolution(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(norm_silu(self.norm2, self.conv1(norm_silu(self.norm1, x))))


class Autoencoder(nn.Module):
    """Images [B, C, H, W] in [-1, 1] <-> latents [B, c, H/4, W/4] as the net has them: `scaling_factor` is for whoever diffuses them.

    scaling_factor: 1 / std of the latents of the first batch of images (`scale_by_std`), 1 until it is measured.
    """

    def __init__(self, p: AutoencoderParameters):
        super().__init__()
        self.p = p
        (narrow, wide), folded = p.channels, p.image_channels * STEM**2
        self.encoder = nn.Sequential(
            Convolution(folded, narrow, 3),
            Residual(narrow),
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1),
            Residual(wide),
            nn.GroupNorm(8, wide),
            nn.SiLU(),
            Convolution(wide, 2 * p.latent_channels, 3),
        )
        self.decoder = nn.Sequential(
            Convolution(p.latent_channels, wide, 3),
            Residual(wide),
            nn.Upsample(scale_factor=2.0),
            Convolution(wide, narrow, 3),
            Residual(narrow),
            nn.GroupNorm(8, narrow),
            nn.SiLU(),
            Convolution(narrow, folded, 3),
        )
        self.register_buffer("scaling_factor", torch.ones(()))

    def encode(self, images: Tensor) -> Posterior:
        """The posterior of images [B, C, H, W]."""
        h = laid_out(functional.pixel_unshuffle(images, STEM))
        mean, logvar = self.encoder(h).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(*LOGVAR))

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, C, H, W] of latents [B, c, h, w]; not clipped."""
        return functional.pixel_shuffle(self.decoder(laid_out(latents)), STEM)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Posterior]:
        """The reconstruction through a sample of the posterior, and the posterior."""
        posterior = self.encode(images)
        return self.decode(posterior.sample(noise)), posterior


def build_autoencoder(p: AutoencoderParameters, seed: int = 0) -> Autoencoder:
    """A new autoencoder with weights drawn from (seed, "autoencoder-init")."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "autoencoder-init"))
        return Autoencoder(p)


def save_autoencoder(path: str | Path, net: Autoencoder, weights: dict[str, Tensor] | None = None, **extra: Any) -> None:
    """Write the weights (or `weights`, an average of them) with the net's parameters and `extra` metadata."""
    save_tensors(path, weights or net.state_dict(), {"autoencoder": net.p.model_dump(mode="json"), **extra})


def load_autoencoder(path: str | Path) -> tuple[Autoencoder, dict[str, Any]]:
    """The autoencoder in eval mode, and its file's metadata. Raises UserError if the file is absent, damaged, or holds something else."""
    weights, metadata = load_tensors(path)
    if "autoencoder" not in metadata:
        raise UserError(f"{path} holds no autoencoder: its header names none; run the stage `text-autoencoder` again")
    net = Autoencoder(validate(AutoencoderParameters, metadata["autoencoder"], "autoencoder", path))
    own = {name: value.clone() for name, value in weights.items()}
    return fill(net, own, path, "run the stage `text-autoencoder` again"), metadata
