"""Parameters of the metrics: what is measured, in which features, with how many images."""

from typing import Literal

from pydantic import Field, model_validator

from backtrail.parameters.base import Digests, Distinct, RelativePath, Section
from backtrail.parameters.quantities import Batch, Count, Level, Whole

ExtractorName = Literal["classifier", "efficientnet-lite0", "inception", "inception-clean"]
PublishedReference = Literal["reference-cifar10-32x32", "reference-ffhq-64x64", "reference-afhqv2-64x64", "reference-imagenet-64x64"]
CleanReference = Literal["reference-clean-cifar10-32x32"]
MetricName = Literal["fd", "kid", "precision", "recall", "density", "coverage"]


def needs_inception(extractors: list[ExtractorName]) -> bool:
    """Whether one of the extractors is made of Inception's files."""
    return any(name.startswith("inception") for name in extractors)


class Mismatch(Section):
    """The mismatch degree (`metrics/mismatch.py`)."""

    sigmas: Distinct[Level] = Field(
        [0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0], min_length=1, description="Noise levels, in units of the images' range [-1, 1]."
    )
    n_samples: Count = Field(256, ge=2, description="Student samples per point of the curve, count.")
    batch_size: Batch = Field(256, description="Student samples per evaluation of a net, count.")
    fit_steps: Whole = Field(20, description="Steps that the reference denoiser is fitted to the current student before it is used.")


class InceptionFiles(Section):
    """Where FID's extractor and its reference statistics come from."""

    reference: PublishedReference | None = Field(
        None, description="EDM's published mean and covariance of the data set; null computes them from `n_reference` training images."
    )
    clean_reference: CleanReference | None = Field(
        None, description="clean-fid's published mean and covariance, in the features of `inception-clean`; null computes them."
    )
    local: RelativePath = Field(
        description="Folder with files supplied by hand, tried before any address and verified as strictly; "
        "what lies there is a dependency of the stage `fetch-inception`."
    )
    sha256: Digests = Field({}, description="Digests of files whose digest the registry does not know, by file name; pins the first fetch.")

    @property
    def published(self) -> dict[ExtractorName, PublishedReference | CleanReference]:
        """The sources of published statistics, by the extractor whose features they are in."""
        named: dict[ExtractorName, PublishedReference | CleanReference | None] = {
            "inception": self.reference, "inception-clean": self.clean_reference
        }  # fmt: skip
        return {extractor: source for extractor, source in named.items() if source is not None}


class Metrics(Section):
    """Which metrics the tables hold, in which features, and the protocol that they share."""

    extractors: Distinct[ExtractorName] = Field(
        ["efficientnet-lite0", "classifier"],
        min_length=1,
        description="Feature extractors; every metric is computed in the features of each.",
    )
    metrics: Distinct[MetricName] = Field(
        ["fd", "kid", "precision", "recall", "density", "coverage"], min_length=1, description="What is computed for the tables."
    )
    n_samples: Count = Field(1000, ge=2, description="Images per evaluated set, count; Frechet distances depend on it.")
    samplings: Count = Field(
        1, description="Sets per student and sampler, seeds running on: values are their mean, Frechet distances also the smallest."
    )
    n_curve: Count = Field(500, ge=2, description="Images per point of a training curve, count; the curve's floor has the same number.")
    n_reference: Count = Field(10000, ge=2, description="Training images behind the reference's mean and covariance, count.")
    n_pairwise: Count = Field(1000, ge=2, description="Images on either side of KID, precision, recall, density, coverage, count.")
    n_floor: Count | None = Field(
        None, ge=2, description="Test images whose metrics are the floor of real against real, count; null: n_samples, as it should be."
    )
    batch_size: Batch = Field(64, description="Images per call of an extractor, count; another value changes the last digits.")
    k_precision: Count = Field(3, description="Neighbour that sets the radius in precision and recall.")
    k_density: Count = Field(5, description="Neighbour that sets the radius in density and coverage.")
    inception: InceptionFiles = Field(
        InceptionFiles(local="data/local"), description="Files of Inception's extractors; nothing is fetched where none of them is used."
    )

    @model_validator(mode="after")
    def _files(self) -> "Metrics":
        if absent := [source for extractor, source in self.inception.published.items() if extractor not in self.extractors]:
            raise ValueError(f"{absent[0]} is in the features of an extractor that metrics.extractors lacks: add it, or leave it out")
        return self

    @model_validator(mode="after")
    def _neighbours(self) -> "Metrics":
        """An image has fewer neighbours than there are images."""
        n = min(self.n_pairwise, self.n_samples, self.n_floor or self.n_samples)
        asked = {"k_precision": {"precision", "recall"}, "k_density": {"density", "coverage"}}
        if bad := [key for key, kinds in asked.items() if kinds & set(self.metrics) and getattr(self, key) >= n]:
            raise ValueError(f"metrics.{bad[0]} must be below the {n} images that are compared (n_pairwise, n_samples, n_floor)")
        return self

    @property
    def distances(self) -> list[str]:
        """The distances that are measured, by the names that tables have for them: in Inception's features fd is called fid."""
        kinds = [(kind, features) for features in self.extractors for kind in self.metrics if kind in ("fd", "kid")]
        named = [("fid" if kind == "fd" and features.startswith("inception") else kind, features) for kind, features in kinds]
        return [f"{kind}_{features.replace('-', '_')}" for kind, features in named]

    @property
    def n_drawn(self) -> int:
        """Images drawn for all sets of a student and a sampler, count; image i from seed i."""
        return self.n_samples * self.samplings
