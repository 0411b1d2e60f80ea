"""Train the built-in teacher: denoising score matching with EDM preconditioning (arXiv 2206.00364, Eq. 2 and Table 1)."""

import math
from collections.abc import Callable

import torch

from backtrail.data.dataset import Dataset, batch
from backtrail.denoiser import Condition, NetDenoiser, per_image
from backtrail.nets.build import build
from backtrail.parameters.teacher import Teacher
from backtrail.randomness import dropout_masks, normal, uniform
from backtrail.training.group import ALONE, Group
from backtrail.training.loop import Losses
from backtrail.training.noise import draw_sigma, edm_loss
from backtrail.training.state import TrainingState, adam, optimiser_step, update_average, weights


def teacher_state(
    p: Teacher, sigma_data: float, place: Callable[[NetDenoiser], NetDenoiser] = lambda net: net, group: Group = ALONE
) -> TrainingState:
    """A run at step 0: module "teacher", where `place` puts it, its Adam, its average."""
    teacher = place(build(p.net, sigma_data, p.seed)).train()
    return TrainingState({"teacher": teacher}, {"teacher": adam(teacher, p.optimiser)}, averages={"teacher": weights(teacher)}, group=group)


def teacher_update(state: TrainingState, p: Teacher, dataset: Dataset, step: int) -> Losses:
    """One update on a batch of images; the learning rate warms up, then falls along a cosine to zero."""
    teacher: NetDenoiser = state.modules["teacher"]  # type: ignore[assignment]
    clean, labels = batch(dataset.train_images, dataset.train_labels, p.seed, "teacher-batch", step, p.batch)
    sigmas = draw_sigma(p.noise, p.batch, p.seed, "teacher-sigma", step)
    noise = normal(tuple(clean.shape), p.seed, "teacher-noise", step)
    dropped = uniform((p.batch,), p.seed, "label-dropout", step) < p.label_dropout
    labels = torch.where(dropped, p.net.n_classes, labels)
    total = 0.0
    for part in state.group.parts(p.batch):
        images, sigma = clean[part.rows].to(teacher.device), sigmas[part.rows].to(teacher.device)
        noisy = images + per_image(sigma, images) * noise[part.rows].to(teacher.device)
        condition = Condition(labels=labels[part.rows].to(teacher.device)) if p.net.n_classes else None
        with dropout_masks(p.seed, "teacher-dropout", step, part.rows.start):
            loss = part.share * edm_loss(teacher(noisy, sigma, condition), images, sigma, teacher.sigma_data)
            loss.backward()
        total += loss.item()
    decay = (1 + math.cos(math.pi * step / p.steps)) / 2
    optimiser_step(state.optimisers["teacher"], p.optimiser, step, decay, state.group)
    update_average(state.averages["teacher"], teacher, p.average, step, p.batch)
    return {"loss": state.group.total(total, teacher.device)}
