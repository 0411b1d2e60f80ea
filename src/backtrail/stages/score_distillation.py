"""`backtrail score-distillation`: a one-step student along a path (Diff-Instruct, DisBack)."""

from pathlib import Path

import click
import pandas as pd

from backtrail.methods.disback import family
from backtrail.methods.disback.distillation import distil
from backtrail.methods.disback.path import load_path
from backtrail.nets.build import save_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.running.torch_stage import torch_stage
from backtrail.stages.measures import CLASSIFIER, curve_point, reference_file
from backtrail.stages.method import SCORE, find_method
from backtrail.tables import save_csv
from backtrail.training.loop import Execution


@click.command()
@click.option("--method", "name", required=True, help="Name of a method of score distillation in params.yaml.")
@click.option("--seed", required=True, type=click.IntRange(0), help="Seed of the student.")
def command(name: str, seed: int) -> None:
    """Train a one-step student against the scores of a path; writes the averaged student, its curve, and snapshots for the mismatch."""
    method, n_curve = find_method(name, SCORE), section(Metrics, "metrics").n_curve
    p, folder, curve = method.parameters, Path(f"results/students/{name}/seed{seed}"), f"results/curves/{name}/seed{seed}.csv"
    path_folder = f"results/paths/{name}/seed{seed}"
    inputs = [path_folder, CLASSIFIER, reference_file("classifier"), *([method.student(seed)] if method.start else [])]
    outputs = [str(folder / "student.safetensors"), str(folder / "snapshots"), curve]
    parameters = {**method.stage_parameters(seed), "n_curve": n_curve}
    with torch_stage(f"{method.family}-distillation@{name}-{seed}", __name__, parameters, inputs, outputs, several=True) as stage:
        path = load_path(path_folder).placed(stage.place)
        sampling = family.sampling(p)
        evaluate = curve_point(sampling.samplers([], [1.0])[0], n_curve, stage.device)
        state = distil(path, p, seed, evaluate, Execution(stage.scratch, stage.group))
        if not stage.writes:
            return
        student, fake, cost = state.modules["student"], state.modules["fake"], state.rows[-1]["cost"]
        save_denoiser(
            folder / "student.safetensors", student, state.averages["student"], cost=cost, sampling=sampling.model_dump(mode="json")
        )
        node_at = {f"{row['update']:09d}": row["node"] for row in state.rows}
        for snapshot, weights in state.snapshots.items():
            like = student if snapshot.startswith("student") else fake
            save_denoiser(folder / "snapshots" / f"{snapshot}.safetensors", like, weights, node=node_at[snapshot.split("-")[1]])
        save_csv(curve, pd.DataFrame(state.rows))
        stage.record.notes |= {"repaired": state.repaired} if state.repaired else {}
