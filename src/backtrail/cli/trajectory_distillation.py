"""`backtrail trajectory-distillation`: a few-step student on the teacher's trajectories (Algorithm 1, SFD, SFD-v)."""

import click
import pandas as pd

from backtrail.cli.measures import CLASSIFIER, curve_point, reference_file
from backtrail.cli.student import trajectory_sampler
from backtrail.cli.torch_stage import torch_stage
from backtrail.data.dataset import load_dataset
from backtrail.methods.trajectories import load_pool
from backtrail.methods.trajectory_distillation import distil
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.tables import save_csv

DATASET, TEACHER = "data/dataset.safetensors", "results/teacher/teacher.safetensors"


@click.command()
@click.option("--method", required=True, help="Name of the method in trajectory_distillation of params.yaml.")
@click.option("--seed", required=True, type=click.IntRange(0), help="Seed of the student.")
def command(method: str, seed: int) -> None:
    """Train a student whose Euler steps land where the teacher's solver does; writes the student and its curve."""
    p, n_curve = section(TrajectoryDistillation, f"trajectory_distillation.{method}"), section(Metrics, "metrics").n_curve
    pool_file = f"results/trajectories/{method}.safetensors"
    inputs = [DATASET, TEACHER, pool_file, CLASSIFIER, reference_file("classifier")]
    out, curve = f"results/students/{method}/seed{seed}/student.safetensors", f"results/curves/{method}/seed{seed}.csv"
    parameters = {"method": p, "seed": seed, "n_curve": n_curve}
    with torch_stage(f"trajectory-distillation@{method}-{seed}", __name__, parameters, inputs, [out, curve]) as stage:
        teacher, dataset = load_denoiser(TEACHER), load_dataset(DATASET)
        images, labels = dataset.train_images, dataset.train_labels
        shape = tuple(images.shape[1:])
        evaluate = curve_point(trajectory_sampler(p, p.sample_num_steps[0]), n_curve, shape, teacher.n_classes)
        state = distil(teacher, load_pool(pool_file, teacher, p, images, labels), p, seed, evaluate, stage.scratch)
        save_denoiser(out, state.modules["student"])
        save_csv(curve, pd.DataFrame(state.rows))
