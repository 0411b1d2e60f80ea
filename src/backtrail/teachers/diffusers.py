"""U-Nets in the format of the diffusers library (DDPM and its kin: discrete time, variance preserving) as D(x, sigma, condition) -> x0."""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from backtrail.artifacts import load_json
from backtrail.denoiser import Condition, per_image
from backtrail.errors import UserError
from backtrail.parameters.base import Section, validate

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
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = Field("epsilon", description="what the network estimates")


class DiscreteTimeDenoiser(nn.Module):
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

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        s = per_image(torch.as_tensor(sigma, dtype=x.dtype, device=x.device), x)
        scale = (s**2 + 1).rsqrt()
        labelled = condition is not None and condition.labels is not None and self.net.class_embedding is not None
        labels = condition.labels if labelled else None
        output = self.net((x * scale).to(self.net.dtype), self.time(s.flatten()), class_labels=labels).sample
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
    """sigma_t = sqrt((1 - a_t) / a_t) of the library's own schedule, float32 [T], on the CPU."""
    from diffusers import DDPMScheduler

    with torch.device("cpu"):
        scheduler = DDPMScheduler.from_config(configuration.model_dump(exclude={"format", "unet"}))
        signal = scheduler.alphas_cumprod.double()
        return ((1 - signal) / signal).sqrt().float()


def build(configuration: DiffusersTeacher) -> nn.Module:
    """A denoiser with new weights; under `torch.device("meta")` without any."""
    from diffusers import UNet2DModel

    return DiscreteTimeDenoiser(UNet2DModel.from_config(configuration.unet), noise_levels(configuration), configuration.prediction_type)


def import_diffusers(folder: str | Path) -> tuple[nn.Module, DiffusersTeacher]:
    """A denoiser (eval mode, no gradients, float32, on the CPU) and its configuration from a pipeline's folder, read by the library.

    The U-Net and the scheduler lie in `unet/` and `scheduler/`, or both in the folder itself. Nothing is downloaded. Raises UserError
    if something is missing, is not supported, or if any weight is missing, left over or of another shape.
    """
    unet, scheduler = (root if (root := Path(folder) / part).is_dir() else Path(folder) for part in ("unet", "scheduler"))
    described, schedule = load_json(unet / "config.json"), load_json(scheduler / "scheduler_config.json")
    if not (isinstance(described, dict) and isinstance(schedule, dict) and described.get("_class_name") == "UNet2DModel"):
        raise UserError(f"{unet / 'config.json'} describes no UNet2DModel: only unconditional and class-conditional U-Nets are imported")
    if schedule.get("rescale_betas_zero_snr"):
        raise UserError(f"{scheduler / 'scheduler_config.json'} ends at infinite noise (rescale_betas_zero_snr), which no sigma expresses")
    known = {key: schedule[key] for key in DiffusersTeacher.model_fields if key in schedule}
    net = _load_unet(unet)
    plain = {key: value for key, value in dict(net.config).items() if not key.startswith("_")}
    configuration = validate(DiffusersTeacher, {**known, "unet": plain}, "scheduler", scheduler / "scheduler_config.json")
    denoiser = DiscreteTimeDenoiser(net.float(), noise_levels(configuration), configuration.prediction_type)
    return denoiser.eval().requires_grad_(False), configuration


def _load_unet(folder: Path) -> nn.Module:
    """The U-Net by the library's own reader, which unpickles tensors alone; what it finds wrong in names and shapes is an error here."""
    from diffusers import UNet2DModel

    try:
        net, found = UNet2DModel.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True)
    except Exception as error:  # the library raises whatever its file readers do
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} cannot be read by diffusers ({type(error).__name__}: {reason}): fetch it again") from None
    wrong = {kind: names for kind, names in found.items() if names}
    if wrong:
        kind, names = next(iter(wrong.items()))
        raise UserError(f"{folder} does not fit its config.json ({kind.replace('_', ' ')}: {str(sorted(map(str, names))[0])[:100]})")
    return net
