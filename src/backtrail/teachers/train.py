"""Train the built-in teacher: denoising score matching with EDM preconditioning (arXiv 2206.00364, Eq. 2 and Table 1)."""

import math

import torch

from backtrail.data.dataset import Dataset, batch
from backtrail.denoiser import Condition, NetDenoiser, per_image
from backtrail.nets.build import build
from backtrail.parameters.teacher import Teacher
from backtrail.randomness import normal, uniform
from backtrail.training.loop import Losses
from backtrail.training.noise import draw_sigma, edm_loss
from backtrail.training.state import TrainingState, adam, optimiser_step, update_average, weights


def teacher_state(p: Teacher, sigma_data: float) -> TrainingState:
    """A run at step 0: module "teacher", its Adam, its average."""
    teacher = build(p.net, sigma_data, p.seed).train()
    return TrainingState({"teacher": teacher}, {"teacher": adam(teacher, p.optimiser)}, averages={"teacher": weights(teacher)})


def teacher_update(state: TrainingState, p: Teacher, dataset: Dataset, step: int) -> Losses:
    """One update on a batch of images; the learning rate warms up, then falls along a cosine to zero."""
    teacher: NetDenoiser = state.modules["teacher"]  # type: ignore[assignment]
    images, labels = batch(dataset.train_images, dataset.train_labels, p.seed, "teacher-batch", step, p.batch)
    sigma = draw_sigma(p.noise, p.batch, p.seed, "teacher-sigma", step)
    noisy = images + per_image(sigma, images) * normal(tuple(images.shape), p.seed, "teacher-noise", step)
    condition = None
    if p.net.n_classes:
        dropped = uniform((p.batch,), p.seed, "label-dropout", step) < p.label_dropout
        condition = Condition(labels=torch.where(dropped, p.net.n_classes, labels))
    loss = edm_loss(teacher(noisy, sigma, condition), images, sigma, teacher.sigma_data)
    loss.backward()
    optimiser_step(state.optimisers["teacher"], p.optimiser, step, factor=(1 + math.cos(math.pi * step / p.steps)) / 2)
    update_average(state.averages["teacher"], teacher, p.average, step + 1, p.batch)
    return {"loss": loss.item()}
