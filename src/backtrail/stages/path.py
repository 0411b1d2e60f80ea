"""`backtrail path`: degradation recording (DisBack, Algorithm 1)."""

import click

from backtrail.data.dataset import load_dataset, to_float
from backtrail.methods.disback.path import save_path
from backtrail.methods.disback.recording import record
from backtrail.nets.build import load_denoiser
from backtrail.running.torch_stage import torch_stage
from backtrail.stages.method import find_method
from backtrail.stages.start import SCORE, load_start

DATASET, TEACHER = "data/dataset.safetensors", "results/teacher/teacher.safetensors"


@click.command()
@click.option("--method", "name", required=True, help="Name of a method of score distillation in params.yaml.")
@click.option("--seed", required=True, type=click.IntRange(0), help="Seed of the student whose path it is.")
def command(name: str, seed: int) -> None:
    """Record the degradation path of a student: the teacher is fitted to the initial student's samples, nodes are kept on the way."""
    method = find_method(name, SCORE)
    p, out = method.parameters, f"results/paths/{name}/seed{seed}"
    inputs = [DATASET, TEACHER, *([method.student(seed)] if method.start else [])]
    with torch_stage(method.stage("path", seed), __name__, method.stage_parameters(seed), inputs, [out], several=True) as stage:
        dataset, teacher = load_dataset(DATASET), stage.place(load_denoiser(TEACHER))
        start = stage.place(load_start(method, seed).student) if method.start else None
        shape = tuple(dataset.train_images.shape[1:])
        data, labels = to_float(dataset.test_images[:1024]), dataset.test_labels[:1024]
        nodes, rows, recording = record(teacher, p, shape, data, seed, stage.scratch, start, labels, stage.group)
        if stage.writes:
            save_path(out, nodes, rows, recording)
            stage.record.notes |= recording
