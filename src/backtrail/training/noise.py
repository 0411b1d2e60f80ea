"""Laws of the noise level in training, and the loss that they weight."""

import torch
from torch import Tensor

from backtrail.denoiser import per_image
from backtrail.parameters.training import KarrasGrid, LogNormal, NoiseLaw
from backtrail.randomness import integers, normal, uniform
from backtrail.sampling.schedules import polynomial, vp_betas, vp_sigma


def draw_sigma(law: NoiseLaw, n: int, seed: int, purpose: str, step: int) -> Tensor:
    """n noise levels, float32 [n], a function of (seed, purpose, step)."""
    if isinstance(law, LogNormal):
        return (law.mean + law.std * normal((n,), seed, purpose, step)).exp()
    if isinstance(law, KarrasGrid):
        grid = polynomial(law.n, law.sigma_min, law.sigma_max, law.rho).float()
        return grid[law.first + integers(law.last - law.first + 1, (n,), seed, purpose, step)]
    tau = law.low + (law.high - law.low) * uniform((n,), seed, purpose, step)
    return vp_sigma(tau.double(), *vp_betas(0.002, 80.0)).float()


def edm_loss(denoised: Tensor, clean: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """Denoising score matching (arXiv 2206.00364, Eq. 2 with Table 1's weight): mean of (sigma^2 + sd^2) / (sigma sd)^2 |D - x0|^2."""
    s = per_image(sigma, clean)
    weight = (s**2 + sigma_data**2) / (s * sigma_data) ** 2
    return torch.mean(weight * (denoised - clean) ** 2)
