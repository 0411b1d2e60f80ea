"""A fetched teacher becomes a denoiser, and is held against what is known of it and against the data set."""

import json
from pathlib import Path
from typing import Any

import safetensors

from backtrail.data.sources import source_of_teacher
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.build import load_denoiser
from backtrail.parameters.discrete_time import Asked
from backtrail.teachers.diffusers import import_diffusers
from backtrail.teachers.edm import import_edm
from backtrail.teachers.published import PUBLISHED
from backtrail.teachers.recognised import READ
from backtrail.tensors import load_tensors, tensors_digest

AGAIN = "get it again from the suite that made it"


def import_teacher(source: str, folder: str | Path, asked: Asked | None = None) -> NetDenoiser:
    """The teacher of that source, whose files lie in `folder`; asked: how one in the format of diffusers is asked.

    Nothing in them is executed. Raises UserError if they are no checkpoint of their format, or not the network that was published.
    """
    teacher, published = read_teacher(source, folder, asked), PUBLISHED.get(source.removeprefix("teacher-"))
    if published is not None and teacher.configuration != published:
        raise UserError(f"{folder} holds another network than the published {source}: fetch it again, or name it `own-edm`")
    return teacher


def read_teacher(source: str, place: str | Path, asked: Asked | None = None) -> NetDenoiser:
    """The teacher in a folder, or in its one file, in the format of that source. Raises UserError if it is none."""
    place, first = Path(place), source_of_teacher(source).files[0].name
    file = place / first if place.is_dir() else place
    if first.endswith(".json"):
        return import_diffusers(place, asked)
    is_safe = source_of_place(file) == "own-backtrail"
    if is_safe:
        _check_own(file)
    if first.endswith(".pkl"):
        if is_safe:
            raise UserError(f"{file} is the teacher of another suite, and no pickle: write source: own-backtrail")
        return import_edm(file)
    if file.is_file() and not is_safe:
        raise UserError(f"{file} is no safetensors file: name {READ}, with its source")
    teacher = load_denoiser(file)
    if teacher.step_condition:
        raise UserError(f"{file} is a student that is told its number of steps (SFD-v), which a teacher is not: name another")
    return teacher


def source_of_place(place: Path) -> str:
    """What kind of the user's own teacher a folder or file is by its content, as params.yaml names it.

    What is neither a folder nor a safetensors file, or cannot be read, is for EDM's reader to refuse.
    """
    if place.is_dir():
        return "own-diffusers"
    try:
        with open(place, "rb") as file:
            return "own-backtrail" if file.read(9)[8:] == b"{" else "own-edm"
    except OSError:
        return "own-edm"


def own_header(file: Path) -> tuple[list[str], dict[str, Any] | None]:
    """The names of a safetensors file's tensors, and what backtrail wrote of them, {metadata, sha256}, or None if it did not write it.

    Raises UserError if it is no whole one.
    """
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            names, written = list(opened.keys()), json.loads((opened.metadata() or {}).get("backtrail", "null"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is no whole safetensors file ({error}): {AGAIN}") from None
    return names, written if isinstance(written, dict) and isinstance(written.get("metadata"), dict) else None


def _check_own(file: Path) -> None:
    """Raises UserError unless a safetensors file is a denoiser of backtrail's, whole: `load_tensors` speaks of files that a stage makes."""
    names, header = own_header(file)
    if header is None:
        of, instead = "a file that backtrail did not write", READ
        if any(".resnets." in name for name in names):
            of, instead = "one file of a diffusers pipeline", "the pipeline's folder, with unet/ and scheduler/ in it (own-diffusers)"
        raise UserError(f"{file} is {of}, weights without the network that they are of: name {instead}")
    if "denoiser" not in header["metadata"]:
        raise UserError(f"{file} is a file of backtrail's that holds no denoiser: name the teacher.safetensors that `teacher` wrote")
    if tensors_digest(load_tensors(file, digested=False)[0]) != header.get("sha256"):
        raise UserError(f"{file} was damaged after it was written (its tensors are not those that its header's digest is of): {AGAIN}")


def check_teacher(teacher: NetDenoiser, image_shape: tuple[int, ...], n_classes: int) -> None:
    """Raises UserError unless the teacher is for images [C, H, W] of this shape, and unconditional or of as many classes as the data."""
    if teacher.image_shape != tuple(image_shape):
        raise UserError(
            f"the teacher is for images of shape {list(teacher.image_shape)}, data.resolution and the data set give {list(image_shape)}: "
            "choose the data set that it was trained on"
        )
    if teacher.n_classes not in (0, n_classes):
        raise UserError(f"the teacher knows {teacher.n_classes} classes, the data set has {n_classes}: choose the one it was trained on")
