"""`backtrail trajectory-distillation`: a few-step student on its teacher's trajectories (Algorithm 1, SFD, SFD-v, SFD's second stage)."""

import click
import pandas as pd

from backtrail.data.dataset import Labelled, load_dataset
from backtrail.methods.sfd import family
from backtrail.methods.sfd.distillation import distil
from backtrail.methods.sfd.trajectories import load_pool
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.running.torch_stage import torch_stage
from backtrail.stages.measures import CLASSIFIER, curve_point, reference_file
from backtrail.stages.method import find_method
from backtrail.tables import save_csv
from backtrail.training.loop import Execution

DATASET, TEACHER = "data/dataset.safetensors", "results/teacher/teacher.safetensors"
TRAJECTORY = {"trajectory": TrajectoryDistillation, "second-stage": TrajectoryDistillation}


@click.command()
@click.option("--method", "name", required=True, help="Name of a method of trajectory distillation in params.yaml.")
@click.option("--seed", required=True, type=click.IntRange(0), help="Seed of the student.")
def command(name: str, seed: int) -> None:
    """Train a student whose Euler steps land where its teacher's solver does; writes the student and its curve."""
    method, n_curve = find_method(name, TRAJECTORY), section(Metrics, "metrics").n_curve
    p, pool_file = method.parameters, f"results/trajectories/{name}.safetensors"
    teacher_file = method.student(seed) if method.start else TEACHER
    inputs = [DATASET, teacher_file, *([] if method.start else [pool_file]), CLASSIFIER, reference_file("classifier")]
    out, curve = f"results/students/{name}/seed{seed}/student.safetensors", f"results/curves/{name}/seed{seed}.csv"
    parameters = {**method.stage_parameters(seed), "n_curve": n_curve}
    with torch_stage(f"{method.family}-distillation@{name}-{seed}", __name__, parameters, inputs, [out, curve], several=True) as stage:
        dataset, teacher = load_dataset(DATASET), stage.place(load_denoiser(teacher_file))
        data = Labelled(dataset.train_images, dataset.train_labels)
        pool = family.second_stage_pool(teacher, teacher_file, p) if method.start else load_pool(pool_file, teacher, p, data)
        sampling = family.sampling(p, teacher)
        evaluate = curve_point(sampling.samplers(p.sample_num_steps[:1], [1.0])[0], n_curve, stage.device)
        state = distil(pool, seed, evaluate, Execution(stage.scratch, stage.group))
        if not stage.writes:
            return
        save_denoiser(out, state.modules["student"], cost=state.cost, sampling=sampling.model_dump(mode="json"))
        save_csv(curve, pd.DataFrame(state.rows))
