"""`backtrail mismatch`: the mismatch degree over a student's training (DisBack, Fig. 4)."""

from pathlib import Path

import click
import pandas as pd

from backtrail.methods.disback.one_step import draw_labels, generate, given, student_input
from backtrail.methods.disback.path import load_path
from backtrail.methods.disback.recording import fit_to_student
from backtrail.metrics.mismatch import mismatch
from backtrail.nets.build import load_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.randomness import Draw
from backtrail.running.torch_stage import torch_stage
from backtrail.stages.method import SCORE, find_method
from backtrail.tables import save_csv
from backtrail.tensors import load_tensors
from backtrail.training.progress import progress


@click.command()
@click.option("--method", "name", required=True, help="Name of a method of score distillation in params.yaml.")
@click.option("--seed", required=True, type=click.IntRange(0), help="Seed of the student.")
def command(name: str, seed: int) -> None:
    """At each snapshot, how far the current target's score is from that of the student's samples, per noise level.

    The reference score is the fake score of the snapshot, fitted further to the student's samples.
    """
    method, m = find_method(name, SCORE), section(Metrics, "metrics").mismatch
    p, path_folder, snapshots = method.parameters, f"results/paths/{name}/seed{seed}", Path(f"results/students/{name}/seed{seed}/snapshots")
    out = f"results/mismatch/{name}/seed{seed}.csv"
    parameters = {**method.stage_parameters(seed), "mismatch": m}
    with torch_stage(method.stage("mismatch", seed), __name__, parameters, [path_folder, str(snapshots)], [out]) as stage:
        path, draw = load_path(path_folder).placed(stage.place), Draw(seed, "mismatch")
        z = student_input(path.teacher, m.n_samples, p.sigma_init, draw.of("z"))
        labels = draw_labels(path.teacher, m.n_samples, draw.of("label"))
        files = sorted(snapshots.glob("student-*.safetensors"))
        tables = []
        with progress(len(files), unit="snapshot") as tick:
            for done, file in enumerate(files, start=1):
                update, node = int(file.stem.split("-")[1]), load_tensors(file)[1]["node"]
                student = stage.place(load_denoiser(file))
                start = stage.place(load_denoiser(file.with_name(file.name.replace("student-", "fake-"))))
                reference = fit_to_student(start, student, p, seed, m.fit_steps)
                samples = generate(student, z, p.sigma_init, labels)
                table = mismatch(path.nodes[node], reference, samples, m.sigmas, m.batch_size, given(labels))
                place = {"update": update, "total_updates": update + path.recorded_steps, "node": node}
                tables.append(pd.DataFrame(place, index=table.index).join(table))
                tick(done)
        save_csv(out, pd.concat(tables))
