"""What suites of latent teachers share: samplers, methods and students, whose images are decoded before they are measured."""

from typing import Self

from pydantic import model_validator

from backtrail.parameters.base import ByName
from backtrail.parameters.base_suite import BaseSuite
from backtrail.parameters.sampling import TeacherSamples
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.students import Sampling, guided
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation


class DecodedSuite(BaseSuite):
    """A teacher of latents and the methods that distil it."""

    teacher_samples: TeacherSamples
    score_distillation: ByName[ScoreDistillation]
    trajectory_distillation: ByName[TrajectoryDistillation]
    students: ByName[Sampling]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the list of students."""
        return list(self.students)

    @property
    def guided(self) -> list[str]:
        """Who asks for guidance: samplers, students and trainings, by name."""
        return guided(self.teacher_samples, self.students, self.score_distillation)

    @model_validator(mode="after")
    def _names(self) -> Self:
        """Every student is trained by one section and stands in the list of students."""
        trained = [*self.score_distillation, *self.trajectory_distillation]
        if sorted(trained) != sorted(self.students):
            raise ValueError(
                f"students must name each method that a section trains, once: {', '.join(trained)}; found {', '.join(self.students)}"
            )
        return self

    @model_validator(mode="after")
    def _trajectories(self) -> Self:
        """A student walks its own trajectories, which nothing keeps."""
        for name, p in self.trajectory_distillation.items():
            if p.cached or p.inputs != "trajectory":
                raise ValueError(f"trajectory_distillation.{name} needs inputs: trajectory and cached: false in a suite of latents")
        return self
