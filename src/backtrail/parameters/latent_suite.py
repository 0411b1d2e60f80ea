"""A suite of a published latent teacher: a `params.yaml` with the section `latent`."""

from typing import Any, Self

from pydantic import model_validator

from backtrail.parameters.base import ByName
from backtrail.parameters.base_suite import BaseSuite
from backtrail.parameters.latent import LatentEvaluation, LatentTeacher, Prompts, RealImages
from backtrail.parameters.sampling import TeacherSamples
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.students import Sampling, guided
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation


class LatentSuite(BaseSuite):
    """A published teacher of latents, what it is told, and the methods that distil it; images are decoded and measured."""

    latent: LatentTeacher
    prompts: Prompts | None
    data: RealImages
    teacher_samples: TeacherSamples
    score_distillation: ByName[ScoreDistillation]
    trajectory_distillation: ByName[TrajectoryDistillation]
    students: ByName[Sampling]
    evaluation: LatentEvaluation

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the list of students."""
        return list(self.students)

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
    def _told(self) -> Self:
        """Guidance and CLIP scores need texts."""
        if self.prompts is not None:
            return self
        if asked := guided(self.teacher_samples, self.students, self.score_distillation):
            raise ValueError(f"guidance of {', '.join(asked)} needs a teacher of texts: name prompts, or set it to 1")
        if self.evaluation.clip:
            raise ValueError("evaluation.clip needs captions: name prompts, or leave it out")
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, p in self.trajectory_distillation.items():
            if p.cached or p.inputs != "trajectory":
                raise ValueError(f"trajectory_distillation.{name} needs inputs: trajectory and cached: false in a suite of latents")
        if self.score_distillation and not self.data.n_latents:
            raise ValueError("data.n_latents must be at least 1 where a path is recorded: its loss on data is measured on them")
        return self


def is_latent(values: dict[str, Any]) -> bool:
    """Whether the parameters `values` (the whole file) are those of a published latent teacher."""
    return "latent" in values
