"""Train the latent teacher of text to images: the mean squared error of the noise (arXiv 2006.11239, Eq. 14) at uniform time steps."""

from collections.abc import Callable

import torch
from torch import Tensor

from backtrail.conditions import Condition
from backtrail.data.caption_archive import CaptionArchive
from backtrail.denoiser import NetDenoiser
from backtrail.nets import text_unet
from backtrail.nets.build import construct
from backtrail.parameters.text import TextTeacher
from backtrail.parameters.training import DiscreteSteps
from backtrail.randomness import Draw
from backtrail.teachers.latents import Latents
from backtrail.teachers.train import denoising_update
from backtrail.training.data_parallel import ALONE, Group
from backtrail.training.loop import Losses
from backtrail.training.state import TrainingState, adam, weights


def text_teacher_state(
    p: TextTeacher, place: Callable[[NetDenoiser], NetDenoiser] = lambda net: net, group: Group = ALONE
) -> TrainingState:
    """A run at step 0: module "teacher", where `place` puts it, its Adam, its average."""
    process = {**p.betas.model_dump(), **p.asked.model_dump(), "prediction_type": p.prediction_type}
    teacher = place(construct(text_unet.TextUNetTeacher(net=p.net, **process), p.seed)).train()
    return TrainingState({"teacher": teacher}, {"teacher": adam(teacher, p.optimiser)}, averages={"teacher": weights(teacher)}, group=group)


def text_teacher_update(state: TrainingState, p: TextTeacher, data: Latents, texts: CaptionArchive, null: Condition, step: int) -> Losses:
    """One update on a batch of latents with their captions; the loss returned is per value of a latent.

    texts: row k is the caption of number k. null: what takes a caption's place with probability `text_dropout`, one row; micro-conditioning
    is never dropped. Adam, average and the cosine of the learning rate as for the built-in teacher of images.
    """
    rows = Draw(p.seed, "teacher", step).of("batch").integers(len(data.latents), p.batch)
    clean, dropped = data.latents[rows], Draw(p.seed, "text-dropout", step).uniform(p.batch) < p.text_dropout
    condition = without_text(texts.condition(data.captions[rows], data.time_ids[rows]), null, dropped)
    law = DiscreteSteps(betas=p.betas, first=0, last=len(state.modules["teacher"].sigmas) - 1)
    return denoising_update(state, p, clean, law, condition, step)


def without_text(condition: Condition, null: Condition, dropped: Tensor) -> Condition:
    """The condition with the null text where `dropped` bool [B]; a text whose mask is None is attended to as a whole."""
    n = len(dropped)
    branch = condition.under(null, n)
    masks = [torch.ones(c.tokens.shape[:2], dtype=torch.bool) if c.mask is None else c.mask for c in (branch, condition)]
    chosen = {name: torch.where(dropped.reshape(n, *[1] * (a.ndim - 1)), a, b) for name, a, b in (
        ("tokens", branch.tokens, condition.tokens), ("pooled", branch.pooled, condition.pooled), ("mask", *masks),
    )}  # fmt: skip
    return Condition(time_ids=condition.time_ids, **chosen)
