"""The one-step student of score distillation: what it starts from, what goes into it, and what it makes."""

import copy

import torch
from torch import Tensor

from backtrail.denoiser import Condition, Denoiser, NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.build import construct
from backtrail.randomness import Draw


def student_input(student: NetDenoiser, n: int, sigma_init: float, draw: Draw) -> Tensor:
    """sigma_init * z, z ~ N(0, I), float32 [n, C, H, W] where the student computes."""
    return sigma_init * draw.normal((n, *student.image_shape)).to(student.device)


def draw_labels(student: NetDenoiser, n: int, draw: Draw) -> Tensor | None:
    """Class labels, uniform, int64 [n]; None for an unconditional net."""
    return draw.integers(student.n_classes, n).to(student.device) if student.n_classes else None


def generate(student: Denoiser, z: Tensor, sigma_init: float, labels: Tensor | None = None) -> Tensor:
    """G(z) = D(z, sigma_init): the student's sample x0 for the input z (Diff-Instruct's generator on an EDM denoiser)."""
    return student(z, torch.tensor(sigma_init, dtype=z.dtype, device=z.device), labels_condition(labels))


def labels_condition(labels: Tensor | None) -> Condition | None:
    """The condition of a denoiser that is told labels, or nothing."""
    return Condition(labels=labels) if labels is not None else None


def initial_student(teacher: NetDenoiser, kind: str, seed: int, start: NetDenoiser | None = None) -> NetDenoiser:
    """G^0: a copy of `start` if there is one, else the teacher's weights, or weights drawn at random from (seed, "init").

    Raises UserError if `start` has another architecture than the teacher: the path's nodes have to be able to fit its samples.
    """
    if start is not None:
        if start.configuration != teacher.configuration:
            found, expected = start.configuration, teacher.configuration
            raise UserError(f"the student to start from ({found!r}) is another architecture than the teacher ({expected!r})")
        return copy.deepcopy(start)
    return construct(teacher.configuration, seed).to(teacher.device) if kind == "random" else copy.deepcopy(teacher)
