"""`backtrail path`: degradation recording (DisBack, Algorithm 1)."""

import click

from backtrail.cli.torch_stage import torch_stage
from backtrail.data.dataset import load_dataset, to_float
from backtrail.methods.degradation import record
from backtrail.methods.path import save_path
from backtrail.nets.build import load_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.score_distillation import ScoreDistillation

DATASET, TEACHER = "data/dataset.safetensors", "results/teacher/teacher.safetensors"


@click.command()
@click.option("--method", required=True, help="Name of the method in score_distillation of params.yaml.")
@click.option("--seed", required=True, type=click.IntRange(0), help="Seed of the student whose path it is.")
def command(method: str, seed: int) -> None:
    """Record the degradation path of a student: the teacher is fitted to the initial student's samples, nodes are kept on the way."""
    p = section(ScoreDistillation, f"score_distillation.{method}")
    out = f"results/paths/{method}/seed{seed}"
    with torch_stage(f"path@{method}-{seed}", __name__, {"method": p, "seed": seed}, [DATASET, TEACHER], [out]) as stage:
        dataset, teacher = load_dataset(DATASET), load_denoiser(TEACHER)
        shape = tuple(dataset.train_images.shape[1:])
        data, labels = to_float(dataset.test_images[:1024]), dataset.test_labels[:1024]
        nodes, rows, recording = record(teacher, p, shape, data, seed, stage.scratch, data_labels=labels)
        save_path(out, nodes, rows, recording)
        stage.record.notes |= recording
