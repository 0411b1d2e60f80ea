"""Random numbers as a function of (seed, purpose, step, index), never of rank, worker, batch size or device count.

A generator is made on the spot for each draw, so nothing has to be saved for a resumed run to continue with the same numbers. Draws are
made on the CPU and moved: CUDA generators give other numbers for the same seed.
"""

import hashlib

import torch
from torch import Tensor


def derive_seed(seed: int, purpose: str, step: int = 0, index: int = 0) -> int:
    """A 63-bit seed from the four coordinates of a draw."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, step: int = 0, index: int = 0) -> torch.Generator:
    """A CPU generator for one draw."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, step, index))


def normal(shape: tuple[int, ...], seed: int, purpose: str, step: int = 0) -> Tensor:
    """Standard normal noise for a whole global batch, float32, shape `shape`; a rank slices its rows out of it."""
    return torch.randn(shape, generator=generator(seed, purpose, step))


def image_noise(indices: range | list[int], shape: tuple[int, ...], purpose: str = "image") -> Tensor:
    """Standard normal noise [len(indices), *shape] in which row k depends on `indices[k]` alone: image i is seed i."""
    return torch.stack([torch.randn(shape, generator=generator(i, purpose)) for i in indices])


def integers(high: int, shape: tuple[int, ...], seed: int, purpose: str, step: int = 0) -> Tensor:
    """Integers in [0, high), int64, shape `shape`."""
    return torch.randint(high, shape, generator=generator(seed, purpose, step))


def uniform(shape: tuple[int, ...], seed: int, purpose: str, step: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), float32, shape `shape`."""
    return torch.rand(shape, generator=generator(seed, purpose, step))


def permutation(n: int, seed: int, purpose: str, step: int = 0) -> Tensor:
    """The integers 0..n-1 in random order, int64 [n]."""
    return torch.randperm(n, generator=generator(seed, purpose, step))
