"""`backtrail teacher`: the denoiser that every method distils."""

from typing import Any

import pandas as pd

from backtrail import layout
from backtrail.data.dataset import Dataset, load_dataset
from backtrail.data.fetched_folder import fetched_files
from backtrail.nets.build import save_denoiser
from backtrail.parameters.teacher import ImportedTeacher, Teacher, teacher_section
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.tables import save_csv
from backtrail.teachers.imported import check_teacher, import_teacher
from backtrail.teachers.train import run_logged, teacher_state, teacher_update

COLUMNS = ["step", "images", "loss", "lr"]


@distributed_stage
def command(stage: TorchStage) -> None:
    """Train the teacher by denoising score matching, or import a released one; writes its weights and the log of its loss."""
    p, dataset = teacher_section(), load_dataset(layout.DATASET)
    rows = import_(p, dataset, stage) if isinstance(p, ImportedTeacher) else train(p, dataset, stage)
    if stage.writes:
        save_csv(layout.TEACHER_LOG, pd.DataFrame(rows, columns=COLUMNS))


def train(p: Teacher, dataset: Dataset, stage: TorchStage) -> list[dict[str, Any]]:
    """Train the teacher and write its averaged weights; returns the log."""
    state = teacher_state(p, dataset.sigma_data, stage.place, stage.group)
    rows = run_logged(state, lambda step: teacher_update(state, p, dataset, step), p, stage.scratch)
    if stage.writes:
        save_denoiser(layout.TEACHER, state.modules["teacher"], state.averages["teacher"])
    return rows


def import_(p: ImportedTeacher, dataset: Dataset, stage: TorchStage) -> list[dict[str, Any]]:
    """Convert the fetched teacher and write it; its log is empty."""
    teacher = import_teacher(p.source, layout.FETCHED_TEACHER, p.discrete_time)
    check_teacher(teacher, dataset.train_images.shape[1:], dataset.n_classes)
    if stage.writes:
        save_denoiser(layout.TEACHER, teacher, source=p.source, files=fetched_files(layout.FETCHED_TEACHER))
    return []
