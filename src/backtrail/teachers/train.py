"""Train the built-in teacher: denoising score matching with EDM preconditioning (arXiv 2206.00364, Eq. 2 and Table 1)."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from backtrail.conditions import Condition
from backtrail.data.dataset import Dataset, batch
from backtrail.denoiser import NetDenoiser
from backtrail.nets.build import build
from backtrail.parameters.teacher import Teacher
from backtrail.parameters.training import Adam, Average, NoiseLaw
from backtrail.randomness import Draw
from backtrail.training.data_parallel import ALONE, Group
from backtrail.training.loop import Losses, run
from backtrail.training.noise import per_value, score_matching_loss
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState, adam, optimiser_step, update_average, weights

LOG_EVERY = 50  # updates


class Length(Protocol):
    """How long a training is: updates, and images in each."""

    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...


class Training(Length, Protocol):
    """What a teacher's training depends on beside its net and its data."""

    @property
    def optimiser(self) -> Adam: ...
    @property
    def average(self) -> Average: ...
    @property
    def seed(self) -> int: ...


def teacher_state(
    p: Teacher, sigma_data: float, place: Callable[[NetDenoiser], NetDenoiser] = lambda net: net, group: Group = ALONE
) -> TrainingState:
    """A run at step 0: module "teacher", where `place` puts it, its Adam, its average."""
    teacher = place(build(p.net, sigma_data, p.seed)).train()
    return TrainingState({"teacher": teacher}, {"teacher": adam(teacher, p.optimiser)}, averages={"teacher": weights(teacher)}, group=group)


def teacher_update(state: TrainingState, p: Teacher, dataset: Dataset, step: int) -> Losses:
    """One update on a batch of images; the loss returned is per value of an image.

    As in EDM's loop: loss (summed over an image, mean over the batch), Adam, average. Not as there: the learning rate falls along a cosine
    to zero, since the budgets here are short; its warm-up begins at one part and not at zero, which would waste an update; a gradient that
    is not finite ends the run and is not replaced; images are not augmented.
    """
    clean, labels = batch(dataset.train_images, dataset.train_labels, p.batch, Draw(p.seed, "teacher", step).of("batch"))
    dropped = Draw(p.seed, "label-dropout", step).uniform(p.batch) < p.label_dropout
    condition = Condition(labels=torch.where(dropped, p.net.n_classes, labels)) if p.net.n_classes else None
    return denoising_update(state, p, clean, p.noise, condition, step)


def run_logged(state: TrainingState, update: Callable[[int], Losses], p: Length, scratch: Scratch | None) -> list[dict[str, Any]]:
    """Run all updates of a state with one optimiser; returns a row of the log for every fifty: step, images, losses, lr."""
    (optimiser,) = state.optimisers.values()
    for step, losses in run(state, update, p.steps, scratch):
        if losses and (step % LOG_EVERY == 0 or step == p.steps):
            state.rows.append({"step": step, "images": step * p.batch, **losses, "lr": optimiser.param_groups[0]["lr"]})
    return state.rows


def denoising_update(state: TrainingState, p: Training, clean: Tensor, law: NoiseLaw, condition: Condition | None, step: int) -> Losses:
    """One update of the teacher on a batch `clean` [B, C, H, W], at noise levels of `law`, told `condition`; the loss is per value."""
    teacher, draw = state.modules["teacher"], Draw(p.seed, "teacher", step)
    total = torch.zeros((), dtype=torch.float64, device=teacher.device)
    for part in state.group.parts(p.batch):
        own, told = draw.rows(part), None if condition is None else condition.rows(part.rows).to(teacher.device)
        with own.of("dropout").masks():
            loss = part.share * score_matching_loss(teacher, clean[part.rows].to(teacher.device), law, own, told)
            loss.backward()
        total += per_value(loss, clean)
    decay = (1 + math.cos(math.pi * step / p.steps)) / 2
    optimiser_step(state.optimisers["teacher"], p.optimiser, step, decay, state.group)
    update_average(state.averages["teacher"], teacher, p.average, step, p.batch)
    return state.group.totals({"loss": total})
