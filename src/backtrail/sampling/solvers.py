"""Solvers of the probability-flow ODE dx/dt = (x - D(x, t)) / t, one generator per published algorithm.

Each takes x at times[0] and yields x at times[1], times[2], ...: the caller sees the whole trajectory. `times` is float64; coefficients are
computed in double precision and applied in x's own. Multistep solvers keep their history over the whole run. A step makes few passes over
the images: Euler's, x + (t_next - t) (x - D) / t, lies between D and x, the fraction t_next / t of the way.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from backtrail.denoiser import Condition, Denoiser, per_image
from backtrail.parameters.sampling import EVALUATIONS_PER_STEP as EVALUATIONS_PER_STEP
from backtrail.sampling.schedules import vp_betas, vp_sigma, vp_tau

Trajectory = Iterator[Tensor]


def euler(denoiser: Denoiser, x: Tensor, times: Tensor, condition: Condition | None = None) -> Trajectory:
    """Euler's method, which is DDIM in this parametrisation (arXiv 2010.02502). 1 evaluation per step."""
    for t, t_next in pairs(times):
        x = _euler_step(denoiser, x, t, t_next, condition)
        yield x


def heun(denoiser: Denoiser, x: Tensor, times: Tensor, condition: Condition | None = None) -> Trajectory:
    """Heun's second-order method (arXiv 2206.00364, Algorithm 1), corrected in the last step too. 2 evaluations per step."""
    for t, t_next in pairs(times):
        ahead = _euler_step(denoiser, x, t, t_next, condition)
        residual = ahead - denoiser(ahead, _as_sigma(t_next, x), condition)
        # Half of Euler's step, and half of a step along the slope where it ends.
        x = torch.lerp(x, ahead, 0.5).add_(residual, alpha=(t_next - t) / (2 * t_next))
        yield x


def dpm_solver_2(denoiser: Denoiser, x: Tensor, times: Tensor, condition: Condition | None = None) -> Trajectory:
    """DPM-Solver-2 (arXiv 2206.00927, Algorithm 1 with r = 1/2): the midpoint rule in ln t. 2 evaluations per step."""
    for t, t_next in pairs(times):
        t_middle = math.sqrt(t * t_next)
        x_middle = _euler_step(denoiser, x, t, t_middle, condition)
        x = _moved(x, [t_next - t], [_epsilon(denoiser, x_middle, t_middle, condition)])
        yield x


def dpm_solver_pp(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    condition: Condition | None = None,
    order: int = 3,
    predict_x0: bool = True,
    lower_order_final: bool = True,
    whole_curvature: bool = False,
) -> Trajectory:
    """DPM-Solver++ multistep (arXiv 2211.01095, Section 4) in the variance-exploding form. 1 evaluation per step.

    `predict_x0=False` is the noise-prediction form, DPM-Solver multistep (arXiv 2206.00927). `lower_order_final` ends with order 2, then 1;
    as released it never lowers a step on the way up, so that two steps of order 3 are of orders 1 and 2.
    The released order 3 takes the second divided difference for the second derivative, which is twice that: its errors are small, but they
    fall with the square of the step and not with the cube. `whole_curvature` puts the factor 2 in, and the method is of third order.
    The SFD code thresholds D (`Thresholded`), but with its fp16 networks that silently does nothing: here it is an option, and off.
    """
    steps = list(pairs(times))
    model: list[Tensor] = []  # D or epsilon at the last times, newest first
    lambdas = [-math.log(t) for t in times.tolist()]
    for i, (t, t_next) in enumerate(steps):
        denoised = denoiser(x, _as_sigma(t, x), condition)
        model = [denoised if predict_x0 else (x - denoised).div_(t), *model[: order - 1]]
        o = min(order, i + 1) if i + 1 < order or not lower_order_final else min(order, len(steps) - i)
        h = lambdas[i + 1] - lambdas[i]
        phi1 = math.expm1(-h if predict_x0 else h)
        phi2 = phi1 / h + (1 if predict_x0 else -1)
        phi3 = phi2 / h - 0.5
        sign = 1 if predict_x0 else -1
        weights = [-phi1, 0.0, 0.0]  # of the model's outputs, newest first
        # Scaled first and second differences of the outputs in lambda (Eq. 2.4 of arXiv 2211.01095's appendix), spread over the outputs.
        if o >= 2:
            r0 = (lambdas[i] - lambdas[i - 1]) / h
            # Order 2 as published takes phi1 / 2 for the first difference where order 3 takes phi2: both are right to their order.
            newer, older = (-phi1 / 2 if o == 2 else sign * phi2), 0.0
            if o == 3:
                r1 = (lambdas[i - 1] - lambdas[i - 2]) / h
                second = (r0 * newer - phi3 * (2 if whole_curvature else 1)) / (r0 + r1)
                newer, older = newer + second, -second / r1
            weights = [weights[0] + newer / r0, older - newer / r0, -older]
        scale = 1.0 if predict_x0 else t_next
        x = _moved(t_next / t * x if predict_x0 else x, [scale * weight for weight in weights[:o]], model[:o])
        yield x


ADAMS_BASHFORTH = {  # constant-step coefficients, newest derivative first
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def ipndm(denoiser: Denoiser, x: Tensor, times: Tensor, condition: Condition | None = None, order: int = 4) -> Trajectory:
    """iPNDM (arXiv 2204.13902): Adams-Bashforth with constant-step coefficients, used on the given grid whatever its spacing. 1 evaluation.

    So it has its full order on a grid uniform in t alone. Where the steps change smoothly (polynomial, logSNR) the coefficients are wrong
    by the change of a step, and any order from 2 up converges with order 2; where they jump, with order 1. In few steps that is much: on
    EDM's grid of six time stamps the fourth step should weigh (1.12, -0.12, 0.01, 0.00), and order 4 takes (2.29, -2.46, 1.54, -0.38).
    """
    history: list[Tensor] = []
    for t, t_next in pairs(times):
        history = [_epsilon(denoiser, x, t, condition), *history[: order - 1]]
        x = _moved(x, [(t_next - t) * weight for weight in ADAMS_BASHFORTH[len(history)]], history)
        yield x


def deis(denoiser: Denoiser, x: Tensor, times: Tensor, condition: Condition | None = None, order: int = 4) -> Trajectory:
    """DEIS tAB (arXiv 2204.13902, Eq. 14): the integral of the Lagrange polynomial through past epsilons in VP-linear time. 1 evaluation.

    tAB3 of the tables is order 4. The integral is done by 64-point Gauss-Legendre; the released code sums 10,000 rectangles.
    """
    # The VP process is EDM's own, sigma from 0.002 to 80, whatever part of it `times` covers.
    betas = vp_betas(0.002, 80.0)
    tau = vp_tau(times, *betas).numpy()
    nodes, node_weights = np.polynomial.legendre.leggauss(64)
    history: list[Tensor] = []
    for i, (t, t_next) in enumerate(pairs(times)):
        history = [_epsilon(denoiser, x, t, condition), *history[: order - 1]]
        start, end = tau[i], tau[i + 1]
        points = (start + end) / 2 + (end - start) / 2 * nodes
        sigma = vp_sigma(torch.from_numpy(points), *betas).numpy()
        # d sigma / d tau, because dx = epsilon d sigma in the variance-exploding form.
        rate = (betas[0] * points + betas[1]) * (sigma**2 + 1) / (2 * sigma)
        past = tau[i::-1][: len(history)]
        older = [float((node_weights * rate * _lagrange(points, past, k)).sum() * (end - start) / 2) for k in range(1, len(history))]
        # The basis sums to one, so the weights sum to the step: that leaves no error of the integral in the largest of them.
        x = _moved(x, [t_next - t - sum(older), *older], history)
        yield x


Solver = Callable[..., Trajectory]
SOLVERS: dict[str, Solver] = {
    "euler": euler,
    "heun": heun,
    "dpm-2": dpm_solver_2,
    **{f"dpmpp-{k}m": partial(dpm_solver_pp, order=k) for k in (1, 2, 3)},
    **{f"dpmpp-{k}m-eps": partial(dpm_solver_pp, order=k, predict_x0=False) for k in (1, 2, 3)},
    # Without the lower orders at the end.
    **{f"dpmpp-{k}m-full": partial(dpm_solver_pp, order=k, lower_order_final=False) for k in (2, 3)},
    "dpmpp-3m-whole": partial(dpm_solver_pp, order=3, lower_order_final=False, whole_curvature=True),
    **{f"ipndm-{k}": partial(ipndm, order=k) for k in (1, 2, 3, 4)},
    **{f"deis-{k}": partial(deis, order=k) for k in (1, 2, 3, 4)},
}


class AnalyticalFirstStep:
    """A denoiser whose first call costs nothing (AFS, arXiv 2210.05475): epsilon = x / sqrt(1 + t^2), so D = x (1 - t / sqrt(1 + t^2)).

    Far from the data x is nearly all noise, and that direction is nearly right. Wrap anew for each trajectory.
    """

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.used = denoiser, False

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        if self.used:
            return self.denoiser(x, sigma, condition)
        self.used = True
        t = sigma.double()
        return x * (1 - t / (1 + t**2).sqrt()).to(x.dtype)


class Thresholded:
    """A denoiser with dynamic thresholding (Imagen, arXiv 2205.11487, Section 2.3): D is clamped to [-s, s] and divided by s.

    s is the 0.995 quantile of |D| over the image's values, one at least. For images in [-1, 1]; latents have no such range.
    """

    def __init__(self, denoiser: Denoiser, quantile: float = 0.995):
        self.denoiser, self.quantile = denoiser, quantile

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        denoised = self.denoiser(x, sigma, condition)
        s = per_image(denoised.abs().flatten(1).quantile(self.quantile, dim=1).clamp_min(1), denoised)
        return denoised.clamp(-s, s) / s


def pairs(times: Tensor) -> Iterator[tuple[float, float]]:
    """Consecutive times as Python floats, so that step sizes are computed in double precision."""
    return pairwise(times.tolist())


def _as_sigma(t: float, x: Tensor) -> Tensor:
    return torch.tensor(t, dtype=x.dtype, device=x.device)


def _epsilon(denoiser: Denoiser, x: Tensor, t: float, condition: Condition | None) -> Tensor:
    return (x - denoiser(x, _as_sigma(t, x), condition)).div_(t)


def _euler_step(denoiser: Denoiser, x: Tensor, t: float, t_next: float, condition: Condition | None) -> Tensor:
    """x + (t_next - t) (x - D(x, t)) / t = D + (t_next / t) (x - D)."""
    return torch.lerp(denoiser(x, _as_sigma(t, x), condition), x, t_next / t)


def _moved(x: Tensor, weights: list[float], tensors: list[Tensor]) -> Tensor:
    """x and the sum of the weighted tensors."""
    total = torch.add(x, tensors[0], alpha=weights[0])
    for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total


def _lagrange(points: np.ndarray, past: np.ndarray, j: int) -> np.ndarray:
    """The j-th Lagrange basis polynomial on the nodes `past`, at `points`."""
    others = np.delete(past, j)
    return np.prod([(points - other) / (past[j] - other) for other in others], axis=0) if len(others) else np.ones_like(points)
