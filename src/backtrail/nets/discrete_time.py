"""Networks of discrete variance-preserving time (DDPM and its kin, latent diffusion) as D(x, sigma, condition) -> x0."""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from backtrail.conditions import Condition
from backtrail.denoiser import NetDenoiser, per_image
from backtrail.errors import UserError
from backtrail.levels import TIME_MAPS, noise_levels
from backtrail.nets.diffusers_steps import tell_steps
from backtrail.parameters.discrete_time import STABLE_DIFFUSION, Asked, Betas, Prediction, TimeStep
from backtrail.parameters.sampling import OF_TIME_STEPS, SPACINGS, Schedule
from backtrail.parameters.training import DiscreteSteps, KarrasGrid, NoiseLaw

# diffusers is imported inside the functions that need it: it takes seconds, and stages without such a teacher do without it.


class DiscreteTime(Betas, Asked):
    """What a network of discrete time is trained by, and how it is asked."""

    prediction_type: Prediction = Field("epsilon", description="What the network estimates.")


class DiffusersTeacher(DiscreteTime):
    """All that is needed, beside the weights, to build a U-Net of the diffusers library again; the defaults are the library's."""

    format: Literal["diffusers"] = "diffusers"
    kind: Literal["UNet2DModel", "UNet2DConditionModel"] = Field("UNet2DModel", description="the library's class of U-Nets")
    unet: dict[str, Any] = Field(description="the library's own configuration of it")
    # Left out where it is not: files of teachers are what they were before there was a step condition.
    step_condition: bool = Field(False, exclude_if=lambda told: not told, description="whether a student was told its steps (SFD-v)")


class DiscreteTimeDenoiser(NetDenoiser):
    """A network F(x_t, t, condition) of discrete time as a denoiser (arXiv 2006.11239, Eq. 4; v: arXiv 2202.00512, Appendix D).

    With a_t the cumulated signal level, sigma_t = sqrt((1 - a_t) / a_t) and x_t = sqrt(a_t) x = x / sqrt(1 + sigma^2):
      epsilon       x0 = x - sigma F
      v_prediction  x0 = (x / sqrt(1 + sigma^2) - sigma F) / sqrt(1 + sigma^2)
      sample        x0 = F
    Between two time steps t is interpolated as `p.time_map` says. The outer part stays in the dtype of x whatever the net computes in. No
    estimate is clipped.
    """

    def __init__(self, net: nn.Module, p: DiscreteTime):
        super().__init__()
        self.net, self.p = net, p
        with torch.device("cpu"):
            levels = noise_levels(p)
        self.register_buffer("sigmas", levels, persistent=False)

    @property
    def prediction(self) -> Prediction:
        """What the network estimates."""
        return self.p.prediction_type

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        time, level = self.time_and_level(torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x)))
        s = per_image(level, x)
        scale = (s**2 + 1).rsqrt()
        output = self.estimate(x * scale, time, condition).to(x.dtype)
        if self.prediction == "epsilon":
            return x - s * output
        return output if self.prediction == "sample" else scale * (scale * x - s * output)

    def estimate(self, x_t: Tensor, time: Tensor, condition: Condition | None) -> Tensor:
        """F(x_t [B, C, H, W], time [B], condition), of the shape of x_t."""
        return self.network(x_t, time, condition)

    def time_and_level(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """sigma [B] -> the time that the network is told, a real number, and the level that x is taken to have, [B] in sigma's dtype."""
        time, level = TIME_MAPS[self.p.time_map](sigma.to(self.sigmas.dtype), self.sigmas)
        return time.to(sigma.dtype), level.to(sigma.dtype)

    def start_scale(self, sigma: float) -> float:
        """sqrt(1 + sigma^2) where sampling starts from x_t = z: z is what such a network was trained on in its last step, not an x_t."""
        return math.sqrt(1 + sigma**2) if self.p.start == "unit" else sigma

    def level(self, at: float | TimeStep) -> float:
        """The noise level that parameters name, by a number or by a time step. Raises UserError for one beyond the last step's."""
        if not isinstance(at, TimeStep):
            self._check_known(at, f"the noise level {at:g}")
            return at
        if at.t >= len(self.sigmas):
            raise UserError(f"{{t: {at.t}}} is beyond the network's time steps, 0 to {len(self.sigmas) - 1}")
        return self.sigmas[at.t].item()

    def check_schedule(self, p: Schedule) -> None:
        """Raises UserError if the schedule counts time steps whose levels are not this network's, or begins beyond its last level."""
        if p.kind in OF_TIME_STEPS:
            self._check_betas(p.betas, "schedule")
        if p.kind not in SPACINGS:  # which take the network's own last step
            self._check_known(p.t_max, f"schedule.t_max = {p.t_max:g}")

    def check_noise(self, law: NoiseLaw) -> None:
        """Raises UserError if the law draws time steps whose levels are not this network's, or levels beyond its last."""
        if isinstance(law, DiscreteSteps):
            self._check_betas(law.betas, "noise law")
        elif isinstance(law, KarrasGrid):
            self._check_known(law.sigma_max, f"sigma_max = {law.sigma_max:g} of the noise law")

    def _check_betas(self, betas: Betas | None, of: str) -> None:
        levels, own = noise_levels(betas or STABLE_DIFFUSION), self.sigmas.cpu()
        if levels.shape != own.shape or not torch.allclose(levels, own, rtol=1e-4, atol=0):
            stated = f"{of}.betas give" if betas else f"a {of} without betas has Stable Diffusion's,"
            there, here = (f"{len(of)} levels from {of[0]:.6g} to {of[-1]:.6g}" for of in (levels, own))
            raise UserError(f"{stated} {there}, the network has {here}: write its own betas into the {of}")

    def _check_known(self, level: float, named: str) -> None:
        """A network that is asked beyond its last step is told that step, and sees another image than it is told of."""
        if level > (last := self.sigmas[-1].item()) * (1 + 1e-3):
            raise UserError(f"{named} is beyond the network's last noise level, {last:.6g}: write that, or less")

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """That of the mean squared error of what the network estimates (arXiv 2006.11239, Eq. 14), on |D - x0|^2."""
        if self.prediction == "sample":
            return torch.ones_like(sigma)
        return sigma**-2 if self.prediction == "epsilon" else 1 + sigma**-2


class DiffusersDenoiser(DiscreteTimeDenoiser):
    """A U-Net of the diffusers library: of (x, t), of a class, or of a text with SDXL's pooled vector and time ids (arXiv 2307.01952)."""

    knows_absence = False  # the library's embedding of classes has no row for it

    @property
    def n_classes(self) -> int:
        return self.net.config.num_class_embeds or 0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        size = self.net.config.sample_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return self.net.config.in_channels, height, width

    @property
    def step_condition(self) -> bool:
        return hasattr(self.net, "map_step")

    def estimate(self, x_t: Tensor, time: Tensor, condition: Condition | None) -> Tensor:
        """The first half of the output, where a learned variance is the second. Raises ValueError if it is not told the text it needs."""
        told = condition or Condition()
        known: dict[str, Any] = {"class_labels": told.labels if self.net.class_embedding is not None else None}
        if "cross_attention_dim" in self.net.config:
            known |= {"encoder_hidden_states": self._needed(told.tokens, "tokens"), "encoder_attention_mask": told.mask}
        if self.net.config.get("addition_embed_type") == "text_time":
            pooled, ids = self._needed(told.pooled, "pooled"), self._needed(told.time_ids, "time_ids")
            known["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
        if not self.step_condition:
            return self.network(x_t.to(self.net.dtype), time, **known).sample[:, : x_t.shape[1]]
        self.net.map_step.told = told.steps
        try:
            return self.network(x_t.to(self.net.dtype), time, **known).sample[:, : x_t.shape[1]]
        finally:
            self.net.map_step.told = None

    def _needed(self, value: Tensor | None, name: str) -> Tensor:
        if value is None:
            raise ValueError(f"the network is told a text, and the condition has no {name}")
        return value.to(self.net.dtype)


def build(configuration: DiffusersTeacher) -> NetDenoiser:
    """A denoiser with new weights; under `torch.device("meta")` without any."""
    import diffusers

    net = getattr(diffusers, configuration.kind).from_config(configuration.unet)
    return DiffusersDenoiser(tell_steps(net) if configuration.step_condition else net, configuration)
