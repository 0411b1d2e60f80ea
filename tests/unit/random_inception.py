"""Weights for Inception where the published file cannot be had, for tests and benchmarks."""

from pathlib import Path

import torch

from backtrail.nets.inception import Inception


def write_random_weights(path: Path) -> Path:
    """A state dict of Inception that keeps the size of what flows through it, so that features are of order one."""
    random = torch.Generator().manual_seed(0)
    weights = Inception().state_dict()
    for name, value in weights.items():
        if name.endswith("conv.weight"):
            value.copy_(torch.randn(value.shape, generator=random) * (2 / value[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=random))
        elif name.endswith(("running_mean", "bn.bias")):
            value.copy_(0.1 * torch.randn(value.shape, generator=random))
        elif name.endswith("bn.weight"):
            value.copy_(1 + 0.3 * torch.randn(value.shape, generator=random))
    torch.save(weights, path)
    return path
