"""The one-step student of score distillation: what it starts from, what goes into it, and what it makes."""

import torch
from torch import Tensor

from backtrail.conditions import Condition
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.build import construct
from backtrail.nets.lora import to_train
from backtrail.parameters.discrete_time import TimeStep
from backtrail.parameters.lora import Lora
from backtrail.randomness import Draw


def student_input(student: NetDenoiser, n: int, at: float | TimeStep, draw: Draw) -> Tensor:
    """What the student says that it starts from, sigma_init z for EDM's, z ~ N(0, I): float32 [n, C, H, W] where the student computes."""
    return student.start_scale(student.level(at)) * draw.normal((n, *student.image_shape)).to(student.device)


def generate(student: NetDenoiser, z: Tensor, at: float | TimeStep, condition: Condition | None = None) -> Tensor:
    """G(z) = D(z, sigma_init, c): the student's sample x0 for the input z (Diff-Instruct's generator on an EDM denoiser)."""
    return student(z, torch.tensor(student.level(at), dtype=z.dtype, device=z.device), condition)


def initial_student(teacher: NetDenoiser, kind: str, seed: int, start: NetDenoiser | None = None, lora: Lora | None = None) -> NetDenoiser:
    """G^0: a copy of `start` if there is one, else the teacher's weights, or weights drawn at random from (seed, "init").

    With `lora` it is adapters that do nothing yet, on the tensors of what it would be a copy of. Raises UserError if `start` has another
    architecture than the teacher: the path's nodes have to be able to fit its samples.
    """
    if start is not None:
        if start.configuration != teacher.configuration:
            found, expected = start.configuration, teacher.configuration
            raise UserError(f"the student to start from ({found!r}) is another architecture than the teacher ({expected!r})")
        return to_train(start, lora, seed, "student")
    return to_train(redrawn(teacher, seed) if kind == "random" else teacher, lora, seed, "student")


def redrawn(teacher: NetDenoiser, seed: int) -> NetDenoiser:
    """A denoiser like the teacher, told the same conditions and computing as it does, with weights drawn from (seed, "init")."""
    made = construct(teacher.configuration, seed).to(teacher.device)
    made.told, made.autocast, made.compiled = teacher.told, teacher.autocast, teacher.compiled
    return made
