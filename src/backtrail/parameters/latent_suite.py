"""A suite of a published latent teacher: a `params.yaml` with the section `latent`."""

from typing import Any, Self

from pydantic import model_validator

from backtrail.parameters.decoded_suite import DecodedSuite
from backtrail.parameters.latent import LatentEvaluation, LatentTeacher, Processes, Prompts, RealImages


class LatentSuite(DecodedSuite):
    """A published teacher of latents, what it is told, and the methods that distil it; images are decoded and measured."""

    latent: LatentTeacher
    processes: Processes
    prompts: Prompts | None
    data: RealImages
    evaluation: LatentEvaluation

    @model_validator(mode="after")
    def _told(self) -> Self:
        """Guidance and CLIP scores need texts."""
        if self.prompts is not None:
            return self
        if self.guided:
            raise ValueError(f"guidance of {', '.join(self.guided)} needs a teacher of texts: name prompts, or set it to 1")
        if self.evaluation.clip:
            raise ValueError("evaluation.clip needs captions: name prompts, or leave it out")
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """A path that is recorded needs latents of real images."""
        if self.score_distillation and not self.data.n_latents:
            raise ValueError("data.n_latents must be at least 1 where a path is recorded: its loss on data is measured on them")
        return self

    @model_validator(mode="after")
    def _sharded(self) -> Self:
        """What is divided are copies of the teacher's whole network; trainings of adapters go on as they are."""
        if not self.processes.sharded:
            return self
        for name, p in self.score_distillation.items():
            if p.student_start == "random" and p.adapters is None:
                raise ValueError(
                    f"score_distillation.{name}.student_start = 'random' is no copy of the teacher: set processes.sharded false"
                )
        for name, few in self.trajectory_distillation.items():
            if few.step_condition != "none":
                raise ValueError(
                    f"trajectory_distillation.{name}.step_condition makes another network than the teacher's: set processes.sharded false"
                )
        if other := [field for field in ("compile", "channels_last") if getattr(self.runtime, field)]:
            raise ValueError(f"runtime.{other[0]} cannot be combined with processes.sharded: set one of them to false")
        return self


def is_latent(values: dict[str, Any]) -> bool:
    """Whether the parameters `values` (the whole file) are those of a published latent teacher."""
    return "latent" in values
