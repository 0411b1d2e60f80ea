"""The preconditionings of arXiv 2206.00364, Table 1, beside EDM's own (`backtrail.denoiser.EDMDenoiser`): D(x, sigma, condition) -> x0.

Each is D = x + c_out F(c_in x, c_noise), computed in the dtype of x. The order of the operations in c_noise is the released networks',
down to float32 rounding, because they were trained with it (`log(1 + sigma^2)` and not `log1p`, for example).
"""

import math

import torch
from torch import Tensor, nn

from backtrail.denoiser import Condition, NetDenoiser, NoiseRange, per_image

EPSILON_S = 1e-5  # smallest time of a VP net's sampling (arXiv 2206.00364, Table 1)


class VPDenoiser(NetDenoiser):
    """VP preconditioning (arXiv 2206.00364, Table 1, column VP): c_out = -sigma, c_in = 1/sqrt(sigma^2 + 1), c_noise = (M - 1) t(sigma)."""

    def __init__(self, net: nn.Module, beta_d: float = 19.9, beta_min: float = 0.1, n_timesteps: int = 1000):
        super().__init__()
        self.net = net
        self.beta_d, self.beta_min, self.n_timesteps = beta_d, beta_min, n_timesteps
        sigma_min, sigma_max = (math.sqrt(math.expm1(beta_d * t**2 / 2 + beta_min * t)) for t in (EPSILON_S, 1.0))
        self.noise_range = NoiseRange(sigma_min, sigma_max)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        s = per_image(torch.as_tensor(sigma, dtype=x.dtype, device=x.device), x)
        c_noise = (self.n_timesteps - 1) * self.time(s).flatten()
        return x - s * self.network(x / (s**2 + 1).sqrt(), c_noise, condition).to(x.dtype)

    def time(self, sigma: Tensor) -> Tensor:
        """The inverse of sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1)."""
        return ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d


class VEDenoiser(NetDenoiser):
    """VE preconditioning (arXiv 2206.00364, Table 1, column VE): c_out = sigma, c_in = 1, c_noise = ln(sigma / 2)."""

    def __init__(self, net: nn.Module, sigma_min: float = 0.02, sigma_max: float = 100.0):
        super().__init__()
        self.net = net
        self.noise_range = NoiseRange(sigma_min, sigma_max)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        s = per_image(torch.as_tensor(sigma, dtype=x.dtype, device=x.device), x)
        return x + s * self.network(x, (0.5 * s).log().flatten(), condition).to(x.dtype)


class IDDPMDenoiser(NetDenoiser):
    """iDDPM preconditioning (arXiv 2206.00364, Table 1, column iDDPM): VP's, with c_noise the index of the nearest noise level u_j.

    The network's output has twice the image's channels; the second half, its variance, is not used.
    """

    def __init__(self, net: nn.Module, c_1: float = 0.001, c_2: float = 0.008, n_timesteps: int = 1000):
        super().__init__()
        self.net = net
        self.register_buffer("u", noise_levels(c_1, c_2, n_timesteps))

    @property
    def noise_range(self) -> NoiseRange:
        """The levels that have a time step; u_M = 0 has none."""
        levels = tuple(self.u[:-1].tolist())
        return NoiseRange(levels[-1], levels[0], levels)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        s = per_image(torch.as_tensor(sigma, dtype=x.dtype, device=x.device), x)
        index = (s.flatten()[:, None].to(self.u.dtype) - self.u).abs().argmin(dim=1)
        c_noise = (len(self.u) - 2 - index).to(x.dtype)
        output = self.network(x / (s**2 + 1).sqrt(), c_noise, condition)
        return x - s * output[:, : x.shape[1]].to(x.dtype)


def noise_levels(c_1: float, c_2: float, n_timesteps: int) -> Tensor:
    """The levels u_j, float32 [M + 1], descending to u_M = 0 (arXiv 2206.00364, Table 1).

    u_{j-1} = sqrt((u_j^2 + 1) / max(a_{j-1} / a_j, C_1) - 1) with a_j = sin^2(pi/2 j / (M (C_2 + 1))).
    """
    alpha_bar = [math.sin(0.5 * math.pi * j / n_timesteps / (c_2 + 1)) ** 2 for j in range(n_timesteps + 1)]
    levels = [0.0]
    for j in range(n_timesteps, 0, -1):
        levels.append(math.sqrt((levels[-1] ** 2 + 1) / max(alpha_bar[j - 1] / alpha_bar[j], c_1) - 1))
    return torch.tensor(levels[::-1], dtype=torch.float32)
