"""A suite of text to images in a small world: a `params.yaml` with the section `text`."""

from typing import Any, Self

from pydantic import model_validator

from backtrail.parameters.decoded_suite import DecodedSuite
from backtrail.parameters.text import (
    AutoencoderTraining,
    PublishedAutoencoder,
    PublishedPart,
    PublishedTextTeacher,
    TextEvaluation,
    TextWorld,
    TowerTraining,
    TrainedTextTeacher,
)

LATENT_SIDE = 8  # of images of 32x32, four pixels per latent
COLOUR = 3  # channels of those images


class TextSuite(DecodedSuite):
    """A world of images and captions, its first stage, judges and teacher, and the methods that distil the teacher in its latents."""

    text: TextWorld
    evaluation: TextEvaluation


class PublishedTextSuite(TextSuite):
    """First stage, judges and teacher are those that another suite has trained."""

    autoencoder: PublishedAutoencoder
    judge: PublishedPart
    caption_tower: PublishedPart
    teacher: PublishedTextTeacher


class TrainedTextSuite(TextSuite):
    """First stage, judges and teacher are trained here."""

    autoencoder: AutoencoderTraining
    judge: TowerTraining
    caption_tower: TowerTraining
    teacher: TrainedTextTeacher

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
        if not self.teacher.text_dropout and self.guided:
            asked = ", ".join(self.guided)
            raise ValueError(f"guidance of {asked} needs a teacher that knows images without a text: set teacher.text_dropout")
        return self


def is_text(values: dict[str, Any]) -> bool:
    """Whether the parameters `values` (the whole file) are those of text to images in a small world."""
    return "text" in values


def text_suite(values: dict[str, Any]) -> type[TextSuite]:
    """The model of such a suite's parameters: its teacher names a source, or is trained."""
    teacher = values.get("teacher")
    return PublishedTextSuite if isinstance(teacher, dict) and "source" in teacher else TrainedTextSuite
