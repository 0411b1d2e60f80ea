"""The sliced Wasserstein distance between samples of points in the plane."""

import math

import torch
from torch import Tensor


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 64) -> float:
    """Sliced 2-Wasserstein distance of two samples of equal size [n, 2, 1, 1], over equally spaced directions, in units of the data."""
    angles = torch.arange(directions, dtype=torch.float64) * (math.pi / directions)
    axes = torch.stack([angles.cos(), angles.sin()])
    projected = ((points.double().flatten(1) @ axes).sort(dim=0).values for points in (x, y))
    a, b = projected
    return (a - b).square().mean().sqrt().item()
