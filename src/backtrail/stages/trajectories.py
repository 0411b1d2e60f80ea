"""`backtrail trajectories`: what a trajectory student is taught."""

import click

from backtrail.data.dataset import Labelled, load_dataset
from backtrail.methods.sfd.trajectories import Pool
from backtrail.nets.build import load_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.running.torch_stage import torch_stage

DATASET, TEACHER = "data/dataset.safetensors", "results/teacher/teacher.safetensors"


@click.command()
@click.option("--method", required=True, help="Name of the method in trajectory_distillation of params.yaml.")
def command(method: str) -> None:
    """Compute the pool of teacher trajectories that all seeds of a method share (nothing, where the method has `cached: false`)."""
    p = section(TrajectoryDistillation, f"trajectory_distillation.{method}")
    out = f"results/trajectories/{method}.safetensors"
    with torch_stage(f"trajectories@{method}", __name__, {"method": p}, [DATASET, TEACHER], [out]) as stage:
        dataset = load_dataset(DATASET)
        teacher = stage.place(load_denoiser(TEACHER))
        Pool(teacher, p, Labelled(dataset.train_images, dataset.train_labels)).save(out, {"method": method})
