"""The one-step student of score distillation, and the fit of a score network to its samples."""

import copy

import torch
from torch import Tensor

from backtrail.denoiser import Condition, Denoiser, NetDenoiser, per_image
from backtrail.errors import UserError
from backtrail.nets.build import construct
from backtrail.parameters.training import NoiseLaw
from backtrail.randomness import integers, normal
from backtrail.training.group import Part
from backtrail.training.noise import draw_sigma, edm_loss


def student_input(
    shape: tuple[int, ...], sigma_init: float, seed: int, purpose: str, step: int, device: torch.device | str = "cpu"
) -> Tensor:
    """sigma_init * z, z ~ N(0, I), float32 `shape` = [B, C, H, W]."""
    return sigma_init * normal(shape, seed, purpose, step).to(device)


def generate(student: Denoiser, z: Tensor, sigma_init: float, labels: Tensor | None = None) -> Tensor:
    """G(z) = D(z, sigma_init): the student's sample x0 for the input z (Diff-Instruct's generator on an EDM denoiser)."""
    return student(z, torch.tensor(sigma_init, dtype=z.dtype, device=z.device), given(labels))


def rows_of(values: Tensor | None, part: Part) -> Tensor | None:
    """The rows of a part; None stays None."""
    return None if values is None else values[part.rows]


def given(labels: Tensor | None) -> Condition | None:
    """The condition of a denoiser that is told labels, or nothing."""
    return Condition(labels=labels) if labels is not None else None


def draw_labels(n_classes: int, n: int, seed: int, purpose: str, step: int, device: torch.device | str = "cpu") -> Tensor | None:
    """Class labels, uniform, int64 [n]; None for an unconditional net."""
    return integers(n_classes, (n,), seed, purpose, step).to(device) if n_classes else None


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


def diffuse(x0: Tensor, law: NoiseLaw, seed: int, purpose: str, step: int, part: Part | None = None) -> tuple[Tensor, Tensor]:
    """x_t = x0 + sigma eps with sigma from `law`: (x_t, sigma [B]); x0 are the rows `part` of a batch, or a whole one."""
    part = part or Part(slice(0, len(x0)), len(x0))
    sigma = draw_sigma(law, part.batch, seed, f"{purpose}-sigma", step)[part.rows].to(x0.device)
    noise = normal((part.batch, *x0.shape[1:]), seed, f"{purpose}-noise", step)[part.rows].to(x0.device)
    return x0 + per_image(sigma, x0) * noise, sigma


def score_matching_loss(
    model: NetDenoiser, x0: Tensor, law: NoiseLaw, labels: Tensor | None, seed: int, purpose: str, step: int, part: Part | None = None
) -> Tensor:
    """Denoising score matching on samples x0 (DisBack, Eq. 5 and Eq. 7), in the teacher's own weighting."""
    noisy, sigma = diffuse(x0, law, seed, purpose, step, part)
    return edm_loss(model(noisy, sigma, given(labels)), x0, sigma, model.sigma_data)
