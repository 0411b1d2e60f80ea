"""Parameters of the metrics: what is measured, in which features, with how many images."""

from typing import Literal

from pydantic import Field, field_validator

from backtrail.parameters.base import Section

ExtractorName = Literal["classifier", "efficientnet-lite0"]
MetricName = Literal["fd", "kid", "precision", "recall", "density", "coverage"]


class Mismatch(Section):
    """The mismatch degree (`metrics/mismatch.py`)."""

    sigmas: list[float] = Field(
        [0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0], min_length=1, description="Noise levels, in units of the images' range [-1, 1]."
    )
    n_samples: int = Field(256, ge=2, description="Student samples per point of the curve, count.")
    batch_size: int = Field(256, ge=1, description="Student samples per evaluation of a net, count.")
    fit_steps: int = Field(20, ge=0, description="Steps that the reference denoiser is fitted to the current student before it is used.")

    @field_validator("sigmas")
    @classmethod
    def _positive(cls, value: list[float]) -> list[float]:
        if bad := [sigma for sigma in value if not 0 < sigma < float("inf")]:
            raise ValueError(f"sigmas {bad} must be positive and finite")
        if len(set(value)) < len(value):
            raise ValueError("sigmas must differ from each other")
        return value


class Metrics(Section):
    """Which metrics the tables hold, in which features, and the protocol that they share."""

    extractors: list[ExtractorName] = Field(
        ["efficientnet-lite0", "classifier"],
        min_length=1,
        description="Feature extractors; every metric is computed in the features of each.",
    )
    metrics: list[MetricName] = Field(
        ["fd", "kid", "precision", "recall", "density", "coverage"], min_length=1, description="What is computed for the tables."
    )
    n_samples: int = Field(1000, ge=2, description="Images per evaluated set, count; Frechet distances depend on it.")
    n_curve: int = Field(500, ge=2, description="Images per point of a training curve, count; the curve's floor has the same number.")
    n_reference: int = Field(10000, ge=2, description="Training images behind the reference's mean and covariance, count.")
    n_pairwise: int = Field(1000, ge=2, description="Images on either side of KID, precision, recall, density, coverage, count.")
    batch_size: int = Field(64, ge=1, description="Images per call of an extractor, count; another value changes the last digits.")
    k_precision: int = Field(3, ge=1, description="Neighbour that sets the radius in precision and recall.")
    k_density: int = Field(5, ge=1, description="Neighbour that sets the radius in density and coverage.")
    mismatch: Mismatch = Field(Mismatch(), description="The mismatch degree.")
