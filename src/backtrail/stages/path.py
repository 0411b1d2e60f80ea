"""`backtrail path`: degradation recording (DisBack, Algorithm 1)."""

import click

from backtrail.data.dataset import Labelled, load_dataset, to_float
from backtrail.methods.disback import family
from backtrail.methods.disback.path import save_path
from backtrail.methods.disback.recording import record
from backtrail.nets.build import load_denoiser
from backtrail.running.torch_stage import torch_stage
from backtrail.stages.method import SCORE, find_method
from backtrail.training.loop import Execution

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
        dataset, start = load_dataset(DATASET), method.student(seed) if method.start else None
        origin = family.origin(load_denoiser(TEACHER), start, p).placed(stage.place)
        data = Labelled(to_float(dataset.test_images[:1024]), dataset.test_labels[:1024])
        path, recording = record(origin, p, data, seed, Execution(stage.scratch, stage.group))
        if stage.writes:
            save_path(out, path, recording)
            stage.record.notes |= recording
