"""Data laws whose denoiser, score and probability-flow trajectory are known exactly, in float64."""

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from backtrail.denoiser import Condition, NetDenoiser, per_image
from backtrail.nets.build import build
from backtrail.parameters.net import UNetParameters


class GaussianDenoiser(NetDenoiser):
    """E[x0 | x0 + sigma eps = x] for x0 ~ N(mean, variance I): mean + variance (x - mean) / (variance + sigma^2)."""

    n_classes, step_condition, image_shape = 0, False, (1, 1, 1)

    def __init__(self, mean: float, variance: float):
        super().__init__()
        self.mean, self.variance = mean, variance

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        s = per_image(torch.as_tensor(sigma, dtype=x.dtype), x)
        return self.mean + self.variance * (x - self.mean) / (self.variance + s**2)


def gaussian_ode(x: Tensor, t: float, t_end: float, mean: float, variance: float) -> Tensor:
    """The probability-flow ODE's solution at t_end from x at t: deviations shrink as sqrt(variance + t^2)."""
    return mean + (x - mean) * ((variance + t_end**2) / (variance + t**2)) ** 0.5


class MixtureDenoiser:
    """E[x0 | x] for x0 ~ sum_k weights_k N(means_k, std^2 I); x [B, d, 1, 1], means [K, d]."""

    def __init__(self, means: Tensor, std: float, weights: Tensor | None = None):
        self.means, self.std = means.double(), std
        self.log_weights = torch.zeros(len(means)).double() if weights is None else weights.double().log()

    def __call__(self, x: Tensor, sigma: Tensor | float, condition: Condition | None = None) -> Tensor:
        flat = x.flatten(1)
        variance = self.std**2 + torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1) ** 2
        squared = (flat[:, None] - self.means).square().sum(-1)
        share = (self.log_weights - squared / (2 * variance)).softmax(1)
        centre = share @ self.means
        return (centre + self.std**2 / variance * (flat - centre)).reshape(x.shape)


def reference_ode(denoiser, x: Tensor, t: float, t_end: float) -> Tensor:
    """dx/dt = (x - D) / t from t to t_end by scipy's DOP853 at tolerance 1e-12, in u = ln t."""

    def rate(u: float, flat: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(flat).reshape(x.shape)
        return (state - denoiser(state, torch.tensor(np.exp(u)))).numpy().ravel()

    done = solve_ivp(rate, (np.log(t), np.log(t_end)), x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
    return torch.from_numpy(done.y[:, -1]).reshape(x.shape)


def tiny_denoiser(seed: int = 0, image_channels: int = 1, n_classes: int = 0, dropout: float = 0.0, scale: float = 0.05) -> NetDenoiser:
    """A U-Net for 4x4 pixels with weights moved off their zeros, so that every part of it acts.

    Sixteen channels, since group normalisation with one channel to a group would take out what the step condition adds.
    """
    shape = {"image_channels": image_channels, "resolution": 4, "channels": [16], "attention_levels": [0]}
    p = UNetParameters(n_classes=n_classes, dropout=dropout, **shape)
    denoiser = build(p, 0.5, seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=random))
    return denoiser.eval().requires_grad_(False)
