"""Noise schedules: n descending times t_0 = t_max > ... > t_{n-1} = t_min, as float64 (here time is sigma).

n counts time stamps, so a sampler makes n - 1 steps. The last time is t_min, never zero: there is no final denoise-to-zero step (SFD).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from backtrail.errors import UserError
from backtrail.levels import level_at, noise_levels, time_in, time_steps
from backtrail.parameters.discrete_time import STABLE_DIFFUSION, Betas

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


def discrete(n: int, t_min: float, t_max: float, rho: float = 1.0, betas: Betas = STABLE_DIFFUSION) -> Tensor:
    """Uniform in the time step of a network of discrete time (the SFD code, for latent diffusion).

    tau = (t + 1) / T runs from tau(t_max) to tau(t_min), uniform in tau^(1/rho); between the steps, and beyond the first and the last, ln
    alpha is linear. The SFD code leaves tau(t_max) without the root, which is the same where tau(t_max) is 1 (Stable Diffusion's own 14.61)
    or rho is 1; elsewhere its first time is not t_max (7.2 for t_max 10 and rho 2).
    """
    levels = noise_levels(betas)
    ends = torch.tensor([t_max, t_min], dtype=torch.float64)
    tau_max, tau_min = ((time_in("ln-alpha", ends, levels) + 1) / betas.num_train_timesteps).tolist()
    tau = (tau_max ** (1 / rho) + _ramp(n) * (tau_min ** (1 / rho) - tau_max ** (1 / rho))) ** rho
    return _pinned(level_at("ln-alpha", tau * betas.num_train_timesteps - 1, levels), t_min, t_max)


SCHEDULES: dict[str, Callable[[int, float, float, float], Tensor]] = {
    "polynomial": polynomial,
    "logsnr": logsnr,
    "time_uniform": time_uniform,
    "discrete": discrete,
}
LEADING_OFFSET = 1  # Stable Diffusion's `steps_offset`: the last of the network's steps is 1, and t_min may be the level of 0


def schedule(name: str, n: int, t_min: float, t_max: float, rho: float, betas: Betas | None = None) -> Tensor:
    """The schedule `name` with n time stamps; betas: the teacher's, for those that count its time steps, or Stable Diffusion's.

    leading, trailing, linspace: n - 1 of the network's own time steps (`levels.time_steps`), then t_min; neither t_max nor rho is used.
    Raises UserError if no step would be left or the times are not descending.
    """
    if n < 2:
        raise UserError(f"a schedule needs at least 2 time stamps (one step); found {n}")
    if not 0 < t_min < t_max:
        raise UserError(f"a schedule needs 0 < t_min < t_max; found t_min = {t_min}, t_max = {t_max}")
    trained = betas or STABLE_DIFFUSION
    if name == "discrete":
        times = discrete(n, t_min, t_max, rho, trained)
    elif name in SCHEDULES:
        times = SCHEDULES[name](n, t_min, t_max, rho)
    else:
        levels, offset = noise_levels(trained), LEADING_OFFSET if name == "leading" else 0
        steps = [min(t, len(levels) - 1) for t in time_steps(name, n - 1, trained.num_train_timesteps, offset)]
        times = torch.cat([levels[steps], torch.tensor([t_min], dtype=torch.float64)])
    # time_uniform: no VP process passes through both ends if they are too close.
    return descending(times, name)


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
