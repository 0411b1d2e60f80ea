"""Noise schedules: n descending times t_0 = t_max > ... > t_{n-1} = t_min, as float64 (here time is sigma).

n counts time stamps, so a sampler makes n - 1 steps. The last time is t_min, never zero: there is no final denoise-to-zero step (SFD).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from backtrail.errors import UserError

EPSILON_VP = 1e-3  # smallest VP-linear time, as in DEIS and the SFD code


def polynomial(n: int, t_min: float, t_max: float, rho: float = 7.0) -> Tensor:
    """EDM's schedule (arXiv 2206.00364, Eq. 5): uniform in t^(1/rho)."""
    ramp = _ramp(n)
    return _pinned((t_max ** (1 / rho) + ramp * (t_min ** (1 / rho) - t_max ** (1 / rho))) ** rho, t_min, t_max)


def logsnr(n: int, t_min: float, t_max: float, rho: float = 1.0) -> Tensor:
    """Uniform in -ln t, the half log-SNR of a variance-exploding process (arXiv 2211.01095); rho is not used."""
    return _pinned(t_max * (t_min / t_max) ** _ramp(n), t_min, t_max)


def time_uniform(n: int, t_min: float, t_max: float, rho: float = 1.0) -> Tensor:
    """Uniform in tau^(1/rho) of the VP-linear process whose sigma runs from t_min at tau = 0.001 to t_max at tau = 1 (DEIS: rho = 2)."""
    tau = (1 + _ramp(n) * (EPSILON_VP ** (1 / rho) - 1)) ** rho
    return _pinned(vp_sigma(tau, *vp_betas(t_min, t_max)), t_min, t_max)


def discrete(n: int, t_min: float, t_max: float, rho: float = 1.0) -> Tensor:
    """Uniform in the index of a model trained on 1,000 discrete steps of Stable Diffusion's scaled-linear betas (0.00085 to 0.012).

    tau = index / 1000 runs from tau(t_max) to tau(t_min), uniform in tau^(1/rho); between indices ln alpha is linear. The SFD code leaves
    tau(t_max) without the root, which is the same where tau(t_max) is 1 (Stable Diffusion's own 14.61) or rho is 1; elsewhere its first
    time is not t_max (7.2 for t_max 10 and rho 2).
    """
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, dim=0)
    log_alpha = (alpha_bar.log() / 2).flip(0)  # ascending in value, so that searchsorted works
    index = torch.arange(1, 1001, dtype=torch.float64).flip(0) / 1000

    def tau_of(sigma: float) -> float:
        return float(_interpolate(torch.tensor([-0.5 * math.log1p(sigma**2)], dtype=torch.float64), log_alpha, index))

    tau_max, tau_min = tau_of(t_max), tau_of(t_min)
    tau = (tau_max ** (1 / rho) + _ramp(n) * (tau_min ** (1 / rho) - tau_max ** (1 / rho))) ** rho
    alpha = _interpolate(tau, index.flip(0), log_alpha.flip(0)).exp()
    return _pinned((1 / alpha**2 - 1).sqrt(), t_min, t_max)


SCHEDULES: dict[str, Callable[[int, float, float, float], Tensor]] = {
    "polynomial": polynomial,
    "logsnr": logsnr,
    "time_uniform": time_uniform,
    "discrete": discrete,
}


def schedule(name: str, n: int, t_min: float, t_max: float, rho: float) -> Tensor:
    """The schedule `name` with n time stamps. Raises UserError if no step would be left or the times are not descending."""
    if n < 2:
        raise UserError(f"a schedule needs at least 2 time stamps (one step); found {n}")
    if not 0 < t_min < t_max:
        raise UserError(f"a schedule needs 0 < t_min < t_max; found t_min = {t_min}, t_max = {t_max}")
    # time_uniform: no VP process passes through both ends if they are too close.
    return descending(SCHEDULES[name](n, t_min, t_max, rho), name)


def descending(times: Tensor, name: str) -> Tensor:
    """`times` as they are. Raises UserError, which calls them the schedule `name`, if one is not below the one before."""
    if not bool((times.diff() < 0).all()):
        ends = f"t_max = {times[0].item():g} and t_min = {times[-1].item():g}"
        raise UserError(f"the schedule {name} does not descend between {ends}: set them further apart, or take fewer time stamps")
    return times


def vp_betas(t_min: float, t_max: float) -> tuple[float, float]:
    """(beta_d, beta_min) of the VP-linear process with sigma(0.001) = t_min and sigma(1) = t_max (EDM, VP column of Table 1)."""
    low, high = math.log1p(t_min**2), math.log1p(t_max**2)
    beta_d = 2 * (low / EPSILON_VP - high) / (EPSILON_VP - 1)
    return beta_d, high - beta_d / 2


def vp_sigma(tau: Tensor, beta_d: float, beta_min: float) -> Tensor:
    """sigma of the VP-linear process: sqrt(exp(beta_d tau^2 / 2 + beta_min tau) - 1)."""
    return torch.expm1(beta_d * tau**2 / 2 + beta_min * tau).sqrt()


def vp_tau(sigma: Tensor, beta_d: float, beta_min: float) -> Tensor:
    """The inverse of `vp_sigma`."""
    return ((beta_min**2 + 2 * beta_d * torch.log1p(sigma**2)).sqrt() - beta_min) / beta_d


def _ramp(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64) / (n - 1)


def _pinned(times: Tensor, t_min: float, t_max: float) -> Tensor:
    """The end points without the rounding of the powers, so that schedules of different length meet exactly."""
    times[0], times[-1] = t_max, t_min
    return times


def _interpolate(x: Tensor, xp: Tensor, fp: Tensor) -> Tensor:
    """Piecewise linear interpolation of (xp ascending, fp), extended linearly beyond the ends."""
    right = torch.searchsorted(xp, x).clamp(1, len(xp) - 1)
    x0, x1, f0, f1 = xp[right - 1], xp[right], fp[right - 1], fp[right]
    return f0 + (x - x0) * (f1 - f0) / (x1 - x0)
