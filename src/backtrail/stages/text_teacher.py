"""`backtrail text-teacher`: the latent teacher of text to images."""

from typing import Any

import pandas as pd

from backtrail import layout
from backtrail.data.caption_archive import CaptionArchive, load_captions
from backtrail.data.text_teacher import fetched, take_over
from backtrail.errors import UserError
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.nets.text_unet import TextUNetTeacher
from backtrail.parameters.net import TextUNetParameters
from backtrail.parameters.text import PublishedTextTeacher, TextWorld, TrainedTextTeacher, either_kind
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.tables import save_csv
from backtrail.teachers.latents import Latents, load_latents
from backtrail.teachers.text import text_teacher_state, text_teacher_update
from backtrail.teachers.train import run_logged
from backtrail.tensors import load_tensors

COLUMNS = ["step", "images", "loss", "lr"]


@distributed_stage
def command(stage: TorchStage) -> None:
    """Train the teacher on latents and captions, or take over a published one; writes its averaged weights and the log of its loss."""
    p = stage.section(either_kind("teacher", TrainedTextTeacher, PublishedTextTeacher), "teacher")
    latents, texts = load_latents(layout.LATENTS), load_captions(layout.CAPTIONS)
    null_text = stage.value(TextWorld, "text.null_text")
    if isinstance(p, TrainedTextTeacher):
        rows = train(p, latents, texts, null_text, stage)
    else:
        check_published(latents, texts, null_text)
        rows = []
        if stage.writes:
            take_over(layout.TEACHER)
    if stage.writes:
        save_csv(layout.TEACHER_LOG, pd.DataFrame(rows, columns=COLUMNS))


def train(p: TrainedTextTeacher, latents: Latents, texts: CaptionArchive, null_text: str, stage: TorchStage) -> list[dict[str, Any]]:
    """Train the teacher and write its averaged weights with what they were trained on; returns the log."""
    check_widths(p.net, texts)
    null, state = texts.null(null_text), text_teacher_state(p, stage.place, stage.group)
    rows = run_logged(state, lambda step: text_teacher_update(state, p, latents, texts, null, step), p, stage.scratch)
    if stage.writes:
        facts = {**facts_of(latents, null_text), "text_dropout": p.text_dropout}
        save_denoiser(layout.TEACHER, state.modules["teacher"], state.averages["teacher"], **facts)
    return rows


def facts_of(latents: Latents, null_text: str) -> dict[str, Any]:
    """What a teacher's file says of its latents and texts."""
    return {"posterior": latents.posterior, "scaling_factor": latents.scaling_factor, "null_text": null_text}


def check_published(latents: Latents, texts: CaptionArchive, null_text: str) -> None:
    """Raises UserError unless the fetched teacher is one of text to images, and was trained on these latents and this null text."""
    file = fetched(layout.TEACHER)
    teacher, said, wanted = load_denoiser(file), load_tensors(file)[1], facts_of(latents, null_text)
    if not isinstance(teacher.configuration, TextUNetTeacher) or teacher.step_condition:
        raise UserError(f"{file} is no teacher of text to images: name the folder that `backtrail export --teacher` wrote in such a suite")
    check_widths(teacher.configuration.net, texts)
    if wrong := [name for name, value in wanted.items() if said.get(name) != value]:
        found = ", ".join(f"{name} = {said.get(name)}, here {wanted[name]}" for name in wrong)
        raise UserError(f"{file} was trained otherwise: {found}; take over its first stage too, its posterior and null text")


def check_widths(net: TextUNetParameters, texts: CaptionArchive) -> None:
    """Raises UserError if the network is for other texts than the encoder's."""
    wanted, found = (net.token_width, net.pooled_width), (texts.tokens.shape[2], texts.pooled.shape[1])
    if wanted != found:
        raise UserError(f"teacher.net has token_width, pooled_width = {wanted}, and the captions were encoded with {found}: write these")
