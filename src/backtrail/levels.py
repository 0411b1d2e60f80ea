"""The noise levels of discrete-time networks, in float64: x_t = sqrt(a_t) x + sqrt(1 - a_t) noise has sigma_t = sqrt((1 - a_t) / a_t).

diffusers computes betas and their product in float32 (relative difference of a level up to 3e-6), the authors of the models in float64.
Maps from sigma to a time differ between the steps: four are in use, and SFD's is not the library's.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from backtrail.parameters.discrete_time import Betas, TimeMap


def signal(p: Betas) -> Tensor:
    """a_t, the cumulated product of 1 - beta, float64 [T], descending."""
    alphas = torch.cumprod(1 - betas(p), dim=0)
    if not p.rescale_betas_zero_snr:
        return alphas
    root = alphas.sqrt()  # arXiv 2305.08891, Algorithm 1: shifted to end at zero, scaled to begin where it did
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


def betas(p: Betas) -> Tensor:
    """The betas before any rescaling, float64 [T]."""
    n = p.num_train_timesteps
    if p.trained_betas is not None:
        return torch.tensor(p.trained_betas, dtype=torch.float64)
    if p.beta_schedule == "linear":
        return torch.linspace(p.beta_start, p.beta_end, n, dtype=torch.float64)
    if p.beta_schedule == "scaled_linear":
        return torch.linspace(p.beta_start**0.5, p.beta_end**0.5, n, dtype=torch.float64) ** 2
    if p.beta_schedule == "sigmoid":
        return torch.linspace(-6, 6, n, dtype=torch.float64).sigmoid() * (p.beta_end - p.beta_start) + p.beta_start
    # squaredcos_cap_v2 (arXiv 2102.09672, Eq. 17), betas at most 0.999
    cosine = torch.cos((torch.arange(n + 1, dtype=torch.float64) / n + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - cosine[1:] / cosine[:-1]).clamp(max=0.999)


def noise_levels(p: Betas) -> Tensor:
    """sigma_t, float64 [T], ascending. With zero terminal SNR the last step, at infinite sigma, is left out: [T - 1]."""
    a = signal(p)[: -1 if p.rescale_betas_zero_snr else None]
    return ((1 - a) / a).sqrt()


# Functions of sigma, ascending or descending throughout, in which one interpolates between levels.
SCALES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sigma": (lambda s: s, lambda y: y),  # diffusers' Euler, from t to sigma
    "ln-sigma": (torch.log, torch.exp),
    "ln-alpha": (lambda s: -torch.log1p(s**2) / 2, lambda y: torch.expm1(-2 * y).sqrt()),  # alpha = sqrt(a_t) = 1 / sqrt(1 + sigma^2)
}


def time_in(scale: str, sigma: Tensor, levels: Tensor) -> Tensor:
    """Real-valued time of sigma [...], piecewise linear in `scale` and extended linearly beyond the first and the last level [T]."""
    forward, _ = SCALES[scale]
    low = _below(sigma, levels)
    at, before, after = forward(sigma), forward(levels[low]), forward(levels[low + 1])
    return low + (at - before) / (after - before)


def level_at(scale: str, time: Tensor, levels: Tensor) -> Tensor:
    """The inverse of `time_in`: the level of a real-valued time."""
    forward, back = SCALES[scale]
    low = time.floor().long().clamp(0, len(levels) - 2)
    before, after = forward(levels[low]), forward(levels[low + 1])
    return back(before + (time - low) * (after - before))


def _clipped(sigma: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    return _snapped(time_in("ln-sigma", sigma, levels).clamp(0, len(levels) - 1)), sigma


def _extended(sigma: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    return _snapped(time_in("ln-alpha", sigma, levels)), sigma


def _nearest(sigma: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    index = (sigma[..., None] - levels).abs().argmin(dim=-1)
    return index.to(sigma.dtype), levels[index]


def _floor(sigma: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    time, _ = _clipped(sigma, levels)
    return time, levels[time.floor().long()]


# (sigma [B], levels [T]) -> (the time that the network is told [B], the level that x is taken to have [B]).
TIME_MAPS: dict[TimeMap, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "ln-sigma": _clipped,  # linear in ln sigma, the ends kept (diffusers)
    "ln-alpha": _extended,  # linear in ln alpha, extended beyond the ends: t = -0.97 for the smallest time of LSUN (SFD)
    "nearest": _nearest,  # the nearest step, and its level in place of sigma (Stability-AI's generative-models)
    "floor": _floor,  # the level of the step below, while the network is told the time in between (FastGen)
}


def time_steps(spacing: str, n: int, n_train: int = 1000, offset: int = 0) -> list[int]:
    """n of a network's `n_train` time steps, descending, as diffusers' schedulers space them.

    leading   multiples of n_train // n, raised by `offset` (1 for Stable Diffusion: from 981 on for 50 steps, never 999)
    trailing  round(T - i T / n) - 1: from the last on
    linspace  evenly from the last to the first, rounded
    """
    if spacing == "leading":
        return [i * (n_train // n) + offset for i in reversed(range(n))]
    if spacing == "trailing":
        return [round(n_train - i * n_train / n) - 1 for i in range(n)]
    return [round(i * (n_train - 1) / max(n - 1, 1)) for i in reversed(range(n))]


def _below(sigma: Tensor, levels: Tensor) -> Tensor:
    """The index of the level at or below each sigma, such that there is one above."""
    return (torch.searchsorted(levels, sigma.contiguous(), right=True) - 1).clamp(0, len(levels) - 2)


def _snapped(time: Tensor) -> Tensor:
    """Times within 1e-3 of a step are the step: the rounding of a level in float32 must not move it off."""
    return torch.where((time - time.round()).abs() < 1e-3, time.round(), time)
