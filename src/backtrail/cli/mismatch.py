"""`backtrail mismatch`: the mismatch degree over a student's training (DisBack, Fig. 4)."""

from pathlib import Path

import click
import pandas as pd

from backtrail.cli.torch_stage import torch_stage
from backtrail.methods.degradation import fit_to_student
from backtrail.methods.one_step import generate, student_input
from backtrail.methods.path import load_path
from backtrail.metrics.mismatch import mismatch
from backtrail.nets.build import load_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.tables import save_csv
from backtrail.tensors import load_tensors
from backtrail.training.progress import progress


@click.command()
@click.option("--method", required=True, help="Name of the method in score_distillation of params.yaml.")
@click.option("--seed", required=True, type=click.IntRange(0), help="Seed of the student.")
def command(method: str, seed: int) -> None:
    """At each snapshot, how far the current target's score is from that of the student's samples, per noise level.

    The reference score is the fake score of the snapshot, fitted further to the student's samples.
    """
    p, m = section(ScoreDistillation, f"score_distillation.{method}"), section(Metrics, "metrics").mismatch
    path_folder, snapshots = f"results/paths/{method}/seed{seed}", Path(f"results/students/{method}/seed{seed}/snapshots")
    out = f"results/mismatch/{method}/seed{seed}.csv"
    inputs = [path_folder, str(snapshots)]
    with torch_stage(f"mismatch@{method}-{seed}", __name__, {"method": p, "seed": seed, "mismatch": m}, inputs, [out]):
        path = load_path(path_folder)
        shape = path.teacher.image_shape
        files = sorted(snapshots.glob("student-*.safetensors"))
        tables = []
        with progress(len(files), unit="snapshot") as tick:
            for done, file in enumerate(files, start=1):
                update, node = int(file.stem.split("-")[1]), load_tensors(file)[1]["node"]
                student = load_denoiser(file)
                start = load_denoiser(file.with_name(file.name.replace("student-", "fake-")))
                reference = fit_to_student(start, student, p, shape, seed, m.fit_steps)
                samples = generate(student, student_input((m.n_samples, *shape), p.sigma_init, seed, "mismatch-z", 0), p.sigma_init)
                table = mismatch(path.nodes[node], reference, samples, m.sigmas, m.batch_size)
                place = {"update": update, "total_updates": update + path.recorded_steps, "node": node}
                tables.append(pd.DataFrame(place, index=table.index).join(table))
                tick(done)
        save_csv(out, pd.concat(tables))
