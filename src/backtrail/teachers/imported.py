"""A fetched teacher becomes a denoiser, and is held against what is known of it and against the data set."""

from pathlib import Path

from backtrail.data.sources import source_of_teacher
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.build import load_denoiser
from backtrail.teachers.diffusers import import_diffusers
from backtrail.teachers.edm import import_edm
from backtrail.teachers.published import PUBLISHED


def import_teacher(source: str, folder: str | Path) -> NetDenoiser:
    """The teacher of that source, whose files lie in `folder`.

    Nothing in them is executed. Raises UserError if they are no checkpoint of their format, or not the network that was published.
    """
    teacher, published = read_teacher(source, folder), PUBLISHED.get(source.removeprefix("teacher-"))
    if published is not None and teacher.configuration != published:
        raise UserError(f"{folder} holds another network than the published {source}: fetch it again, or name it `own-edm`")
    return teacher


def read_teacher(source: str, place: str | Path) -> NetDenoiser:
    """The teacher in a folder, or in its one file, in the format of that source. Raises UserError if it is none."""
    place, first = Path(place), source_of_teacher(source).files[0].name
    file = place / first if place.is_dir() else place
    if first.endswith(".pkl"):
        return import_edm(file)
    if first.endswith(".json"):
        return import_diffusers(place)
    teacher = load_denoiser(file)
    if teacher.step_condition:
        raise UserError(f"{file} is a student that is told its number of steps (SFD-v), which a teacher is not: name another")
    return teacher


def check_teacher(teacher: NetDenoiser, image_shape: tuple[int, ...], n_classes: int) -> None:
    """Raises UserError unless the teacher is for images [C, H, W] of this shape, and unconditional or of as many classes as the data."""
    if teacher.image_shape != tuple(image_shape):
        raise UserError(
            f"the teacher is for images of shape {list(teacher.image_shape)}, data.resolution and the data set give {list(image_shape)}: "
            "choose the data set that it was trained on"
        )
    if teacher.n_classes not in (0, n_classes):
        raise UserError(f"the teacher knows {teacher.n_classes} classes, the data set has {n_classes}: choose the one it was trained on")
