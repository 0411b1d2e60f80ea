"""Parameters that every stage with an optimiser shares."""

from typing import Literal

from pydantic import Field, model_validator

from backtrail.parameters.base import Pair, Section
from backtrail.parameters.quantities import Decay, LearningRate, Level, Positive, Whole


class LogNormal(Section):
    """ln sigma ~ N(mean, std^2) (EDM's training distribution)."""

    kind: Literal["lognormal"] = "lognormal"
    mean: float = Field(-1.2, ge=-20, le=20, description="Mean of ln sigma.")
    std: float = Field(1.2, ge=1e-6, le=20, description="Standard deviation of ln sigma.")


class KarrasGrid(Section):
    """sigma drawn uniformly from the time stamps of EDM's grid (SiD, DMD2)."""

    kind: Literal["karras"] = "karras"
    n: int = Field(1000, ge=2, le=10**6, description="Time stamps of the grid.")
    first: Whole = Field(0, description="Smallest index drawn; 0 is sigma_max.")
    last: Whole = Field(999, description="Largest index drawn; n - 1 is sigma_min.")
    sigma_min: Level = Field(0.002, description="Smallest noise level of the grid.")
    sigma_max: Level = Field(80.0, description="Largest noise level of the grid.")
    rho: float = Field(7.0, ge=0.1, le=1000, description="Exponent of the grid.")

    @model_validator(mode="after")
    def _fits(self) -> "KarrasGrid":
        if not self.first <= self.last < self.n:
            raise ValueError(f"0 <= first <= last < n is needed; found first = {self.first}, last = {self.last}, n = {self.n}")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min} must be below sigma_max = {self.sigma_max}")
        return self


class UniformTime(Section):
    """sigma of the VP-linear process at a time drawn uniformly (DDPM-like)."""

    kind: Literal["uniform-t"] = "uniform-t"
    low: float = Field(0.02, gt=0, lt=1, description="Smallest time, as a fraction of the process.")
    high: float = Field(0.98, gt=0, le=1, description="Largest time, as a fraction of the process.")

    @model_validator(mode="after")
    def _fits(self) -> "UniformTime":
        if self.low >= self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}")
        return self


NoiseLaw = LogNormal | KarrasGrid | UniformTime


class Adam(Section):
    """Adam, with an optional linear warm-up."""

    lr: LearningRate = Field(description="Learning rate.")
    betas: Pair[Decay] = Field((0.9, 0.999), description="Decay of the running mean and of the running square.")
    eps: float = Field(1e-8, ge=1e-30, le=1, description="Added to the root of the running square.")
    warmup: Whole = Field(0, description="Updates over which the learning rate rises linearly from 0.")
    clip: Positive | None = Field(None, description="Largest norm of the gradient; null does not clip.")


class Average(Section):
    """Exponential moving average of the weights (EDM's rule)."""

    half_life: Positive = Field(description="Images after which a weight's share has halved.")
    ramp: Positive | None = Field(0.05, description="The half-life is at most this fraction of the images seen so far; null: no ramp.")
