"""`backtrail score-distillation`: a one-step student along a path (Diff-Instruct, DisBack)."""

from pathlib import Path

import click
import pandas as pd

from backtrail.cli.measures import CLASSIFIER, curve_point, reference_file
from backtrail.cli.torch_stage import torch_stage
from backtrail.methods.path import load_path
from backtrail.methods.score_distillation import distil
from backtrail.nets.build import save_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.sampling.sample import Sampler
from backtrail.tables import save_csv


@click.command()
@click.option("--method", required=True, help="Name of the method in score_distillation of params.yaml.")
@click.option("--seed", required=True, type=click.IntRange(0), help="Seed of the student.")
def command(method: str, seed: int) -> None:
    """Train a one-step student against the scores of a path; writes the averaged student, its curve, and snapshots for the mismatch."""
    p, n_curve = section(ScoreDistillation, f"score_distillation.{method}"), section(Metrics, "metrics").n_curve
    folder, curve = Path(f"results/students/{method}/seed{seed}"), f"results/curves/{method}/seed{seed}.csv"
    path_folder = f"results/paths/{method}/seed{seed}"
    inputs = [path_folder, CLASSIFIER, reference_file("classifier")]
    outputs = [str(folder / "student.safetensors"), str(folder / "snapshots"), curve]
    parameters = {"method": p, "seed": seed, "n_curve": n_curve}
    with torch_stage(f"score-distillation@{method}-{seed}", __name__, parameters, inputs, outputs) as stage:
        path = load_path(path_folder)
        shape = path.teacher.image_shape
        evaluate = curve_point(Sampler(sigma_init=p.sigma_init), n_curve, shape, path.teacher.n_classes)
        state = distil(path, p, shape, seed, evaluate, stage.scratch)
        student, fake = state.modules["student"], state.modules["fake"]
        save_denoiser(folder / "student.safetensors", student, state.averages["student"])
        node_at = {f"{row['update']:09d}": row["node"] for row in state.rows}
        for name, weights in state.snapshots.items():
            like = student if name.startswith("student") else fake
            save_denoiser(folder / "snapshots" / f"{name}.safetensors", like, weights, node=node_at[name.split("-")[1]])
        save_csv(curve, pd.DataFrame(state.rows))
        stage.record.notes |= {key: state.notes[key] for key in ("repaired",) if key in state.notes}
