"""`backtrail text-teacher`: the latent teacher of text to images."""

import pandas as pd

from backtrail import layout
from backtrail.data.caption_archive import CaptionArchive, load_captions
from backtrail.errors import UserError
from backtrail.nets.build import save_denoiser
from backtrail.parameters.net import TextUNetParameters
from backtrail.parameters.text import TextTeacher, TextWorld
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.tables import save_csv
from backtrail.teachers.latents import load_latents
from backtrail.teachers.text import text_teacher_state, text_teacher_update
from backtrail.teachers.train import run_logged

COLUMNS = ["step", "images", "loss", "lr"]


@distributed_stage
def command(stage: TorchStage) -> None:
    """Train the teacher on latents and captions; writes its averaged weights and the log of its loss."""
    p, latents, texts = stage.section(TextTeacher, "teacher"), load_latents(layout.LATENTS), load_captions(layout.CAPTIONS)
    check_widths(p.net, texts)
    null, state = texts.null(stage.value(TextWorld, "text.null_text")), text_teacher_state(p, stage.place, stage.group)
    rows = run_logged(state, lambda step: text_teacher_update(state, p, latents, texts, null, step), p, stage.scratch)
    if stage.writes:
        facts = {"posterior": latents.posterior, "scaling_factor": latents.scaling_factor}
        save_denoiser(layout.TEACHER, state.modules["teacher"], state.averages["teacher"], **facts)
        save_csv(layout.TEACHER_LOG, pd.DataFrame(rows, columns=COLUMNS))


def check_widths(net: TextUNetParameters, texts: CaptionArchive) -> None:
    """Raises UserError if the network is for other texts than the encoder's."""
    wanted, found = (net.token_width, net.pooled_width), (texts.tokens.shape[2], texts.pooled.shape[1])
    if wanted != found:
        raise UserError(f"teacher.net has token_width, pooled_width = {wanted}, and the captions were encoded with {found}: write these")
