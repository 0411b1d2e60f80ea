"""`backtrail teacher`: the denoiser that every method distils."""

import click
import pandas as pd

from backtrail.artifacts import save_csv
from backtrail.cli.torch_stage import torch_stage
from backtrail.data.dataset import load_dataset
from backtrail.nets.build import save_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.teacher import Teacher
from backtrail.teachers.train import teacher_state, teacher_update
from backtrail.training.loop import run

DATASET, TEACHER, LOG = "data/dataset.safetensors", "results/teacher/teacher.safetensors", "results/teacher/log.csv"


@click.command()
def command() -> None:
    """Train the teacher by denoising score matching; writes its averaged weights and the log of its loss."""
    p = section(Teacher, "teacher")
    with torch_stage("teacher", __name__, {"teacher": p}, [DATASET], [TEACHER, LOG]) as stage:
        dataset = load_dataset(DATASET)
        state = teacher_state(p, dataset.sigma_data)
        for step, losses in run(state, lambda step: teacher_update(state, p, dataset, step), p.steps, stage.scratch):
            if losses and (step % 50 == 0 or step == p.steps):
                state.rows.append(
                    {"step": step, "images": step * p.batch, **losses, "lr": state.optimisers["teacher"].param_groups[0]["lr"]}
                )
        save_denoiser(TEACHER, state.modules["teacher"], state.averages["teacher"])
        save_csv(LOG, pd.DataFrame(state.rows))
