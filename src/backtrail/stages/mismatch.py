"""`backtrail mismatch`: the mismatch degree over a student's training (DisBack, Fig. 4)."""

from pathlib import Path

import pandas as pd

from backtrail import layout
from backtrail.methods.disback.distillation import target_of
from backtrail.methods.disback.one_step import generate, student_input
from backtrail.methods.disback.path import load_path
from backtrail.methods.disback.recording import fit_to_student
from backtrail.metrics.mismatch import mismatch
from backtrail.nets.build import load_denoiser
from backtrail.parameters.metrics import Mismatch
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.randomness import Draw
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.tables import save_csv
from backtrail.tensors import load_tensors
from backtrail.training.progress import progress


@torch_stage
def command(stage: TorchStage) -> None:
    """At each snapshot, how far the current target's score is from that of the student's samples, per noise level.

    The reference score is the fake score of the snapshot, fitted further to the student's samples.
    """
    m, p = stage.section(Mismatch, "mismatch"), stage.section(ScoreDistillation, f"score_distillation.{stage.method}")
    path, draw = load_path(layout.path(*stage.of_method)).placed(stage.place), Draw(stage.seed, "mismatch")
    z = student_input(path.teacher, m.n_samples, p.sigma_init, draw.of("z"))
    condition = path.teacher.draw_condition(draw.of("label"), m.n_samples)
    files = sorted(Path(layout.snapshots(*stage.of_method)).glob("student-*.safetensors"))
    tables = []
    with progress(len(files), unit="snapshot") as tick:
        for done, file in enumerate(files, start=1):
            update, node = int(file.stem.split("-")[1]), load_tensors(file)[1]["node"]
            student = stage.place(load_denoiser(file))
            start = stage.place(load_denoiser(file.with_name(file.name.replace("student-", "fake-"))))
            reference = fit_to_student(start, student, p, stage.seed, m.fit_steps)
            samples = generate(student, z, p.sigma_init, condition)
            table = mismatch(target_of(path, node, p), reference, samples, m.sigmas, m.batch_size, condition)
            place = {"update": update, "total_updates": update + path.recorded_steps, "node": node}
            tables.append(pd.DataFrame(place, index=table.index).join(table))
            tick(done)
    save_csv(layout.mismatch(*stage.of_method), pd.concat(tables))
