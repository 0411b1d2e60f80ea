"""Parameters of a suite without images: a ring of Gaussians in the plane, whose score is known exactly.

A `params.yaml` with the section `ring` is such a suite. It has no data set, no classifier and no Inception.
"""

from typing import Any, Self

from pydantic import Field, model_validator

from backtrail.parameters.base import ByName, Section
from backtrail.parameters.base_suite import BaseSuite
from backtrail.parameters.quantities import Count, Level
from backtrail.parameters.sampling import TimeStamps
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.teacher import Teacher


class RingLaw(Section):
    """Equal Gaussians at equal angles on a circle."""

    modes: int = Field(ge=2, le=10_000, description="Gaussians on the circle.")
    radius: Level = Field(description="Radius of the circle, in units of the data.")
    std: Level = Field(description="Standard deviation of each Gaussian in each direction, in units of the data.")


class RingEvaluation(Section):
    """What is measured on the students. Distances are sliced 2-Wasserstein, in units of the data."""

    n_points: Count = Field(ge=2, description="Points of either sample between which a distance is measured.")
    n_floor: Count = Field(description="Pairs of samples of the ring itself whose mean distance is the floor.")
    teacher_num_steps: TimeStamps = Field(description="Time stamps of Heun's method, with which the teacher is sampled.")
    window: Count = Field(description="Evaluations at the end of a curve whose mean is its end point.")
    detour_updates: Count = Field(description="First updates of a student, in which it makes a detour or does not.")
    mismatch_sigma: Level = Field(description="Noise level of the mismatch degree, in units of the data.")
    mismatch_points: Count = Field(ge=2, description="Points of a student on which the mismatch degree is measured.")


class RingSuite(BaseSuite):
    """A ring, its teacher, and the methods of score distillation that are run on it."""

    ring: RingLaw
    teacher: Teacher
    evaluation: RingEvaluation
    score_distillation: ByName[ScoreDistillation]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the parameters."""
        return list(self.score_distillation)

    @model_validator(mode="after")
    def _net(self) -> Self:
        net = self.teacher.net
        if net.kind != "mlp" or net.image_channels != 2 or net.n_classes:
            raise ValueError(
                "teacher.net of a ring is {kind: mlp, image_channels: 2, n_classes: 0}: its points are in the plane, unlabelled"
            )
        return self

    @model_validator(mode="after")
    def _methods(self) -> Self:
        for name, p in self.score_distillation.items():
            first = [update for update in p.snapshots if update <= self.evaluation.detour_updates]
            if 0 not in first or len(first) < 2:
                raise ValueError(
                    f"score_distillation.{name}.snapshots must hold 0 and another update up to evaluation.detour_updates = "
                    f"{self.evaluation.detour_updates}: the start of a student is judged on them"
                )
            if p.updates // p.evaluate_every < self.evaluation.window:
                raise ValueError(f"score_distillation.{name} has fewer evaluations than evaluation.window = {self.evaluation.window}")
        return self


def is_ring(values: dict[str, Any]) -> bool:
    """Whether the parameters `values` (the whole file) are those of a ring and not of a suite of images."""
    return "ring" in values
