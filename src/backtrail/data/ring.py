"""A ring of Gaussians in the plane: data whose score is known exactly, on which the methods run in a minute, unchanged.

A point is an image of shape [2, 1, 1], the net is the MLP, and everything else is the code that trains on pictures.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backtrail.denoiser import Condition, per_image
from backtrail.randomness import Draw

SHAPE = (2, 1, 1)


@dataclass(frozen=True)
class Ring:
    """Equal Gaussians of standard deviation `std` at equal angles on a circle of radius `radius`, in units of the data."""

    modes: int = 8
    radius: float = 0.7
    std: float = 0.05

    @property
    def centres(self) -> Tensor:
        """float64 [modes, 2]."""
        angles = torch.arange(self.modes, dtype=torch.float64) * (2 * math.pi / self.modes)
        return self.radius * torch.stack([angles.cos(), angles.sin()], dim=1)

    @property
    def sigma_data(self) -> float:
        """Standard deviation of a coordinate."""
        return math.sqrt(self.radius**2 / 2 + self.std**2)

    def points(self, n: int, seed: int, purpose: str, step: int = 0) -> Tensor:
        """Samples, float32 [n, 2, 1, 1], a function of (seed, purpose, step)."""
        draw = Draw(seed, purpose, step)
        centres = self.centres.float()[draw.of("mode").integers(self.modes, n)]
        return centres.reshape(n, *SHAPE) + self.std * draw.of("point").normal((n, *SHAPE))

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """The exact denoiser E[x0 | x] of the ring: x [B, 2, 1, 1], sigma scalar or [B] -> [B, 2, 1, 1]."""
        variance = self.std**2 + per_image(torch.as_tensor(sigma, dtype=x.dtype), x) ** 2
        centres = self.centres.to(x.dtype).reshape(1, self.modes, *SHAPE)
        squared = (x[:, None] - centres).square().sum(dim=2, keepdim=True)
        share = (-squared / (2 * variance[:, None])).softmax(dim=1)
        centre = (share * centres).sum(dim=1)
        return centre + self.std**2 / variance * (x - centre)
