"""A suite of text to images in a small world: a `params.yaml` with the section `text`."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from backtrail.parameters.base import ByName, Section
from backtrail.parameters.base_suite import BaseSuite
from backtrail.parameters.quantities import Batch, Count
from backtrail.parameters.sampling import TeacherSamples
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.students import Sampling, guided
from backtrail.parameters.text import AutoencoderTraining, TextTeacher, TextWorld, TowerTraining
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation

LATENT_SIDE = 8  # of images of 32x32, four pixels per latent
COLOUR = 3  # channels of those images


class TextEvaluation(Section):
    """What is measured of decoded images."""

    n_samples: Count = Field(ge=2, description="Images of each model at each number of evaluations and weight of guidance.")
    n_curve: Count = Field(ge=2, description="Images at each point of a student's curve.")
    n_reference: Count = Field(ge=2, description="Real images, of every pair and centred, that a Frechet distance compares with.")
    batch_size: Batch = Field(64, description="Images per pass of the judge; part of the protocol.")
    prompts: Literal["apart", "same"] = Field(
        "apart",
        description="Captions of evaluation: the last wording, of all pairs, which students are not trained under; or those of training, "
        "as in SFD's released code.",
    )


class TextSuite(BaseSuite):
    """A world of images and captions, its first stage, judges and teacher, and the methods that distil the teacher in its latents."""

    text: TextWorld
    autoencoder: AutoencoderTraining
    judge: TowerTraining
    caption_tower: TowerTraining
    teacher: TextTeacher
    teacher_samples: TeacherSamples
    score_distillation: ByName[ScoreDistillation]
    trajectory_distillation: ByName[TrajectoryDistillation]
    students: ByName[Sampling]
    evaluation: TextEvaluation

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
    def _fits(self) -> Self:
        net, first = self.teacher.net, self.autoencoder.net
        if (net.image_channels, net.resolution) != (first.latent_channels, LATENT_SIDE):
            raise ValueError(
                f"teacher.net must have image_channels = {first.latent_channels} and resolution = {LATENT_SIDE}, those of the latents; "
                f"found {net.image_channels} and {net.resolution}"
            )
        if first.image_channels != COLOUR:
            raise ValueError(f"autoencoder.net.image_channels must be {COLOUR}, the images are in colour; found {first.image_channels}")
        if not self.teacher.text_dropout and (asked := guided(self.teacher_samples, self.students, self.score_distillation)):
            raise ValueError(f"guidance of {', '.join(asked)} needs a teacher that knows images without a text: set teacher.text_dropout")
        for name, p in self.trajectory_distillation.items():
            if p.cached or p.inputs != "trajectory":
                raise ValueError(f"trajectory_distillation.{name} needs inputs: trajectory and cached: false in a suite of text to images")
        return self


def is_text(values: dict[str, Any]) -> bool:
    """Whether the parameters `values` (the whole file) are those of text to images in a small world."""
    return "text" in values
