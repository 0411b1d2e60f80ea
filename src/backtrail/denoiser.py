"""The one interface of the house: D(x, sigma, condition) -> x0, and classifier-free guidance.

Everything is written in the variance-exploding form x = x0 + sigma * noise (Karras et al. 2022, arXiv 2206.00364), with time t = sigma.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from backtrail.conditions import Condition, Conditions, Labels
from backtrail.errors import UserError
from backtrail.parameters.base import Section
from backtrail.parameters.discrete_time import TimeStep
from backtrail.parameters.sampling import Schedule
from backtrail.parameters.training import NoiseLaw
from backtrail.randomness import Draw


@dataclass(frozen=True)
class NoiseRange:
    """The noise levels that a denoiser was made for: sigma_min to sigma_max, in units of the data, and `levels` alone if there are any."""

    sigma_min: float = 0.0
    sigma_max: float = math.inf
    levels: tuple[float, ...] | None = None

    def nearest(self, sigma: Tensor) -> Tensor:
        """float64 [n] of the levels next to `sigma` [n]; without levels, sigma itself."""
        if self.levels is None:
            return sigma
        levels = torch.tensor(self.levels, dtype=sigma.dtype)
        return levels[(sigma[:, None] - levels).abs().argmin(dim=1)]


class Denoiser(Protocol):
    """Estimates the clean image: x [B, C, H, W], sigma scalar or [B] -> x0 [B, C, H, W], all in the data's units."""

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor: ...


def per_image(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma as a tensor that broadcasts over the images of x: scalar or [B] -> [B, 1, 1, 1]."""
    return sigma.expand(x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))


class NetDenoiser(nn.Module):
    """A denoiser made of a network `net`, with what the stages ask of it beside its estimate; each preconditioning is a subclass.

    sigma_data: standard deviation of the data, as far as the weight of the denoising loss asks for it (EDM's 0.5 if the preconditioning
    has none). configuration: what has to be known beside the weights to build the denoiser again (`nets/build.py`).
    """

    net: nn.Module
    sigma_data: float = 0.5
    configuration: Section | None = None
    autocast: torch.dtype | None = None  # what the network's products are computed in; None is the weights' own
    compiled: bool = False  # whether the network goes through torch.compile
    noise_range: NoiseRange = NoiseRange()  # what its own sampler keeps to
    told: Conditions | None = None  # where a run takes its conditions from; None: its own classes, uniform
    knows_absence: bool = True  # whether training has shown it the null label, without which it cannot be guided

    def network(self, *inputs: Any, **options: Any) -> Any:
        """The raw network's output. Copies of a denoiser compile their own network, at their first call."""
        if self.compiled and self.net._compiled_call_impl is None:
            self.net.compile()
        if self.autocast is None:
            return self.net(*inputs, **options)
        with torch.autocast(self.device.type, self.autocast):
            return self.net(*inputs, **options)

    @property
    def device(self) -> torch.device:
        """Where it computes; a closed form, which has no weights, does so on the CPU."""
        weight = next(self.parameters(), None)
        return torch.device("cpu") if weight is None else weight.device

    @property
    def n_classes(self) -> int:
        """Classes that the denoiser is conditioned on; 0 is unconditional."""
        return self.net.n_classes

    @property
    def conditions(self) -> Conditions:
        """Where a run takes its conditions from; copies take them from there too."""
        return Labels(self.n_classes, self.knows_absence) if self.told is None else self.told

    def draw_condition(self, draw: Draw, n: int) -> Condition | None:
        """The conditions of a training batch of n images, the rows of the draw's part, where it computes."""
        return self._here(self.conditions.drawn(draw, n))

    def condition_of_images(self, indices: Sequence[int]) -> Condition | None:
        """The conditions that images `indices` are sampled under, where it computes."""
        return self._here(self.conditions.of_images(indices))

    def condition_of_data(self, labels: Tensor | None) -> Condition | None:
        """The conditions of images of the data set, by their labels int64 [n], where it computes."""
        return self._here(self.conditions.of_data(labels))

    def _here(self, condition: Condition | None) -> Condition | None:
        return None if condition is None else condition.to(self.device)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of the images that it denoises."""
        return self.net.image_shape

    @property
    def step_condition(self) -> bool:
        """Whether it can be told its sampler's number of time stamps (`Condition.steps`)."""
        return self.net.step_condition

    def start_scale(self, sigma: float) -> float:
        """Standard deviation of the noise that sampling, or a one-step student, starts from at the level sigma; EDM's is sigma itself."""
        return sigma

    def level(self, at: float | TimeStep) -> float:
        """The noise level that parameters name, as a number. Raises UserError for a time step of a network that has none."""
        if isinstance(at, TimeStep):
            raise UserError(f"{{t: {at.t}}} names a time step, and this network knows none: write the noise level as a number")
        return at

    def check_schedule(self, p: Schedule) -> None:
        """Raises UserError if the schedule counts another network's time steps, or begins beyond this one's; one without any takes all."""

    def check_noise(self, law: NoiseLaw) -> None:
        """Raises UserError if the law draws another network's time steps, or goes beyond this one's; one without any takes all."""

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """Weight of |D - x0|^2 in the loss that such a network is trained by, at each sigma; EDM's (arXiv 2206.00364, Table 1)."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


def start_scale(denoiser: Denoiser, sigma: float) -> float:
    """What `denoiser` says its start is scaled by at the level sigma; a closed form, which is no network, starts as EDM's do."""
    own = getattr(denoiser, "start_scale", None)
    return sigma if own is None else own(sigma)


class EDMDenoiser(NetDenoiser):
    """EDM preconditioning (arXiv 2206.00364, Eq. 7 and Table 1): D = c_skip x + c_out F(c_in x, c_noise, condition).

    The outer part stays in float32 (or wider) whatever the net computes in.
    """

    def __init__(self, net: nn.Module, sigma_data: float):
        super().__init__()
        self.net = net
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        s = per_image(torch.as_tensor(sigma, dtype=x.dtype, device=x.device), x)
        variance = s**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = s * self.sigma_data / variance.sqrt()
        c_in = variance.rsqrt()
        c_noise = s.flatten().log() / 4
        return c_skip * x + c_out * self.network(c_in * x, c_noise, condition).to(x.dtype)


class Guided:
    """Classifier-free guidance as a denoiser (SFD, guidance equation): w D(x, c) + (1 - w) D(x, null).

    null: the condition of the other branch, of one row: a null label, the encoding of "", zeros (`Condition.under`). `evaluations` is the
    number of network evaluations per call: w = 1 needs the conditional branch only.
    """

    def __init__(self, denoiser: Denoiser, scale: float, null: Condition):
        self.denoiser, self.scale, self.null = denoiser, scale, null
        self.evaluations = 1 if scale == 1 else 2

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        if self.scale == 1:
            return self.denoiser(x, sigma, condition)
        null = (condition or Condition()).under(self.null.to(x.device), len(x))
        return self.scale * self.denoiser(x, sigma, condition) + (1 - self.scale) * self.denoiser(x, sigma, null)

    def start_scale(self, sigma: float) -> float:
        """That of the denoiser that is guided."""
        return start_scale(self.denoiser, sigma)


def guided(denoiser: Denoiser, scale: float, conditions: Conditions) -> Denoiser:
    """The denoiser under guidance, itself for w = 1. Raises UserError if there is no condition whose absence it could know."""
    if scale == 1:
        return denoiser
    if conditions.null is None:
        raise UserError(
            f"guidance {scale} needs a denoiser that was trained on classes and on their absence (n_classes, label_dropout), "
            "or on captions and on their absence (text_dropout): write guidance 1 for this one"
        )
    return Guided(denoiser, scale, conditions.null)
