"""Parameters of teachers of discrete time: the betas that they were trained with, and how they are asked for levels in between."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from backtrail.parameters.base import Section
from backtrail.parameters.quantities import Level

Beta = Annotated[float, Field(gt=0, lt=1)]
Prediction = Literal["epsilon", "v_prediction", "sample"]
TimeMap = Literal["ln-sigma", "ln-alpha", "nearest", "floor"]


class Betas(Section):
    """beta_0 ... beta_{T-1} of x_t = sqrt(a_t) x + sqrt(1 - a_t) noise with a_t = prod (1 - beta); names and defaults of diffusers."""

    num_train_timesteps: int = Field(1000, ge=2, le=100_000, description="Number of time steps T.")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = Field(
        "linear", description="Shape of the betas; scaled_linear is linear in their roots (latent diffusion)."
    )
    beta_start: Beta = Field(0.0001, description="First beta.")
    beta_end: Beta = Field(0.02, description="Last beta.")
    trained_betas: tuple[Beta, ...] | None = Field(
        None, strict=False, min_length=2, max_length=100_000, description="All betas, instead of a schedule."
    )
    rescale_betas_zero_snr: bool = Field(
        False, description="Betas changed so that nothing but noise is left in the last step (arXiv 2305.08891)."
    )

    @model_validator(mode="after")
    def _whole(self) -> "Betas":
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(f"trained_betas are {len(self.trained_betas)}, num_train_timesteps is {self.num_train_timesteps}")
        return self


STABLE_DIFFUSION = Betas(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


class Asked(Section):
    """How a network of discrete time is asked, where its authors and its users differ."""

    time_map: TimeMap = Field("ln-sigma", description="From sigma to the time that the network is told (`levels.TIME_MAPS`).")
    start: Literal["unit", "sigma"] = Field(
        "unit", description="What sampling starts from: x_t = z, which is sqrt(1 + sigma^2) z, or sigma z (SFD on latent diffusion)."
    )


class TimeStep(Section):
    """A noise level by the time step of a discrete-time teacher: {t: 399}."""

    t: int = Field(ge=0, lt=100_000, description="Time step, from 0.")


def _kind(value: Any) -> str:
    return "[key]" if isinstance(value, (dict, TimeStep)) else ""


# A number, or {t: 399} for a teacher of discrete time. Messages leave these tags out of the place that they name.
AtLevel = Annotated[Annotated[Level, Tag("")] | Annotated[TimeStep, Tag("[key]")], Discriminator(_kind)]
