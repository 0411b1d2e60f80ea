"""Parameters of the teacher: one that is trained here, or one that is imported."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from backtrail.layout import PARAMS_FILE
from backtrail.parameters.base import Digests, RelativePath, Section, read, section
from backtrail.parameters.net import NetParameters, UNetParameters
from backtrail.parameters.quantities import Batch, Count, Decay, Seed
from backtrail.parameters.training import Adam, Average, LogNormal

TeacherSource = Literal[
    "teacher-edm-cifar10-32x32-uncond-vp", "teacher-edm-cifar10-32x32-cond-vp", "teacher-edm-ffhq-64x64-uncond-vp",
    "teacher-edm-afhqv2-64x64-uncond-vp", "teacher-edm-imagenet-64x64-cond-adm", "teacher-ddpm-cifar10-32",
    "own-backtrail", "own-edm", "own-diffusers",
]  # fmt: skip


class Teacher(Section):
    """Denoising score matching with EDM preconditioning (arXiv 2206.00364, Table 1)."""

    net: NetParameters = UNetParameters()
    steps: Count = Field(description="Optimiser updates.")
    batch: Batch = Field(description="Images per update.")
    optimiser: Adam
    noise: LogNormal = LogNormal()
    average: Average
    label_dropout: Decay = Field(0.0, description="Share of labels replaced by the null label (classifier-free guidance).")
    seed: Seed = Field(0, description="Seed of weights, batches and noise.")


class TrainedTeacher(Teacher):
    """A teacher that is trained here, in a suite of images: the stage `fetch-teacher` is there too, and has nothing to fetch."""

    local: RelativePath = Field(description="folder in which an imported teacher would be looked for; `fetch-teacher` depends on it")


class ImportedTeacher(Section):
    """A released checkpoint, converted without running anything that is in it."""

    source: TeacherSource = Field(
        description="entry of the registry of sources; `own-backtrail` is the `teacher.safetensors` of another suite, `own-edm` your own "
        "checkpoint in EDM's format, `own-diffusers` your own U-Net in that of the diffusers library, all named by `local`"
    )
    local: RelativePath = Field(
        description="folder (or the one file) with files supplied by hand, tried before any address and verified as strictly; "
        "what lies there is a dependency of the stage `fetch-teacher`"
    )
    sha256: Digests = Field({}, description="digests of files whose digest the registry does not know, by file name; pins the first fetch")


def is_imported(values: dict[str, Any]) -> bool:
    """Whether the teacher of the parameters `values` (the whole file) is an imported one: it names a source."""
    teacher = values.get("teacher")
    return isinstance(teacher, dict) and "source" in teacher


def teacher_section(path: str | Path = PARAMS_FILE) -> TrainedTeacher | ImportedTeacher:
    """The section `teacher`, of either kind. Raises UserError if one of its values is not allowed."""
    return section(ImportedTeacher, "teacher", path) if is_imported(read(path)) else section(TrainedTeacher, "teacher", path)
