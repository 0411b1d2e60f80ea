"""Imported teachers as files: safetensors weights whose header tells the configuration, whatever they were imported from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backtrail.errors import UserError
from backtrail.parameters.base import Section, validate
from backtrail.teachers import diffusers, edm
from backtrail.teachers.weights import fill
from backtrail.tensors import load_tensors, save_tensors

FORMATS: dict[str, tuple[type[Section], Callable[[Any], nn.Module]]] = {
    "edm": (edm.EDMTeacher, edm.build),
    "diffusers": (diffusers.DiffusersTeacher, diffusers.build),
}


def save_teacher(path: str | Path, denoiser: nn.Module, configuration: Section, **extra: Any) -> None:
    """Write an imported denoiser; the header holds its configuration (key `denoiser`) and `extra`."""
    save_tensors(path, denoiser.state_dict(), {"denoiser": configuration.model_dump(mode="json"), **extra})


def load_teacher(path: str | Path) -> tuple[nn.Module, Section]:
    """Read back what `save_teacher` wrote: the denoiser (eval mode, no gradients, on the CPU) and its configuration.

    Raises UserError if the file is absent, no imported teacher, or its weights do not fit the configuration exactly.
    """
    weights, metadata = load_tensors(path)
    described = metadata.get("denoiser")
    kind = described.get("format") if isinstance(described, dict) else None
    if kind not in FORMATS:
        raise UserError(f"{path} holds no imported teacher: expected a header with one of the formats {', '.join(FORMATS)}; found {kind!r}")
    model, build = FORMATS[kind]
    configuration = validate(model, described, "denoiser", path)
    with torch.device("meta"):
        denoiser = build(configuration)
    return fill(denoiser, weights, path), configuration
