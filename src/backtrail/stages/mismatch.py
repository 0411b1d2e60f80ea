"""`backtrail mismatch`: the mismatch degree over a student's training (DisBack, Fig. 4)."""

from pathlib import Path

import pandas as pd

from backtrail import layout
from backtrail.methods.disback.one_step import draw_labels, generate, given, student_input
from backtrail.methods.disback.path import load_path
from backtrail.methods.disback.recording import fit_to_student
from backtrail.metrics.mismatch import mismatch
from backtrail.nets.build import load_denoiser
from backtrail.parameters.metrics import Mismatch
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.tables import save_csv
from backtrail.tensors import load_tensors
from backtrail.training.progress import progress


@torch_stage
def command(stage: TorchStage) -> None:
    """At each snapshot, how far the current target's score is from that of the student's samples, per noise level.

    The reference score is the fake score of the snapshot, fitted further to the student's samples.
    """
    m, seed = stage.section(Mismatch, "mismatch"), stage.seed
    p = stage.section(ScoreDistillation, f"score_distillation.{stage.method}")
    path, snapshots = load_path(layout.path(*stage.of_method)), Path(layout.snapshots(*stage.of_method))
    nodes, shape = [stage.place(node) for node in path.nodes], path.teacher.image_shape
    z = student_input((m.n_samples, *shape), p.sigma_init, seed, "mismatch-z", 0, stage.device)
    labels = draw_labels(path.teacher.n_classes, m.n_samples, seed, "mismatch-label", 0, stage.device)
    files = sorted(snapshots.glob("student-*.safetensors"))
    tables = []
    with progress(len(files), unit="snapshot") as tick:
        for done, file in enumerate(files, start=1):
            update, node = int(file.stem.split("-")[1]), load_tensors(file)[1]["node"]
            student = stage.place(load_denoiser(file))
            start = stage.place(load_denoiser(file.with_name(file.name.replace("student-", "fake-"))))
            reference = fit_to_student(start, student, p, shape, seed, m.fit_steps)
            samples = generate(student, z, p.sigma_init, labels)
            table = mismatch(nodes[node], reference, samples, m.sigmas, m.batch_size, given(labels))
            place = {"update": update, "total_updates": update + path.recorded_steps, "node": node}
            tables.append(pd.DataFrame(place, index=table.index).join(table))
            tick(done)
    save_csv(layout.mismatch(*stage.of_method), pd.concat(tables))
