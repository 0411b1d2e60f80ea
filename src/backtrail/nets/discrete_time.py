"""U-Nets in the format of the diffusers library (DDPM and its kin: discrete time, variance preserving) as D(x, sigma, condition) -> x0."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from backtrail.denoiser import Condition, NetDenoiser, per_image
from backtrail.parameters.base import Section

# The library is imported inside the functions that need it: it takes seconds, and stages without such a teacher do without it.


class DiffusersTeacher(Section):
    """All that is needed, beside the weights, to build such a teacher again; the defaults are the library's."""

    format: Literal["diffusers"] = "diffusers"
    unet: dict[str, Any] = Field(description="the library's own configuration of its UNet2DModel")
    num_train_timesteps: int = Field(1000, ge=2, le=100_000, description="number of time steps")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = Field("linear", description="shape of the betas")
    beta_start: float = Field(0.0001, gt=0, lt=1, description="first beta")
    beta_end: float = Field(0.02, gt=0, lt=1, description="last beta")
    trained_betas: tuple[float, ...] | None = Field(None, strict=False, description="all betas, instead of a schedule")
    rescale_betas_zero_snr: bool = Field(False, description="betas changed so that nothing but noise is left in the last step")
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = Field("epsilon", description="what the network estimates")


class DiscreteTimeDenoiser(NetDenoiser):
    """A network F(x_t, t) of discrete variance-preserving time as a denoiser (arXiv 2006.11239, Eq. 4; v: arXiv 2202.00512, Appendix D).

    With a_t the cumulated signal level, sigma_t = sqrt((1 - a_t) / a_t) and x_t = sqrt(a_t) x = x / sqrt(1 + sigma^2):
      epsilon       x0 = x - sigma F
      v_prediction  x0 = (x / sqrt(1 + sigma^2) - sigma F) / sqrt(1 + sigma^2)
      sample        x0 = F
    Between two time steps t is interpolated in log sigma, as the library's own continuous solvers do; beyond the first and the last it
    stays there. `sigmas` [T] are the levels, ascending. No estimate is clipped.
    """

    def __init__(self, net: nn.Module, sigmas: Tensor, prediction: Literal["epsilon", "v_prediction", "sample"]):
        super().__init__()
        self.net, self.prediction = net, prediction
        self.register_buffer("sigmas", sigmas.float(), persistent=False)

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
        return False

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        s = per_image(torch.as_tensor(sigma, dtype=x.dtype, device=x.device), x)
        scale = (s**2 + 1).rsqrt()
        labelled = condition is not None and condition.labels is not None and self.net.class_embedding is not None
        labels = condition.labels if labelled else None
        output = self.network((x * scale).to(self.net.dtype), self.time(s.flatten()), class_labels=labels).sample
        output = output[:, : x.shape[1]].to(x.dtype)  # a learned variance, if there is one, is the second half
        if self.prediction == "epsilon":
            return x - s * output
        return output if self.prediction == "sample" else scale * (scale * x - s * output)

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] -> time step [B], a real number. The rounding of a level in float32 must not move it off its step: hence the snap."""
        levels = self.sigmas.log()
        value = sigma.to(levels.dtype).log()
        low = (torch.searchsorted(levels, value, right=True) - 1).clamp(0, len(levels) - 2)
        time = low + ((value - levels[low]) / (levels[low + 1] - levels[low])).clamp(0, 1)
        return torch.where((time - time.round()).abs() < 1e-3, time.round(), time)


def noise_levels(configuration: DiffusersTeacher) -> Tensor:
    """sigma_t = sqrt((1 - a_t) / a_t) of the library's own schedule, float32 [T], on the CPU.

    With betas rescaled to end at no signal (arXiv 2305.08891, Algorithm 1) the last step, which is at infinite sigma, is left out.
    """
    from diffusers import DDPMScheduler

    with torch.device("cpu"):
        scheduler = DDPMScheduler.from_config(configuration.model_dump(exclude={"format", "unet"}))
        signal = scheduler.alphas_cumprod.double()[: -1 if configuration.rescale_betas_zero_snr else None]
        return ((1 - signal) / signal).sqrt().float()


def build(configuration: DiffusersTeacher) -> NetDenoiser:
    """A denoiser with new weights; under `torch.device("meta")` without any."""
    from diffusers import UNet2DModel

    return DiscreteTimeDenoiser(UNet2DModel.from_config(configuration.unet), noise_levels(configuration), configuration.prediction_type)
