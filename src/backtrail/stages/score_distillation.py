"""`backtrail score-distillation`: a one-step student along a path (Diff-Instruct, DisBack)."""

from pathlib import Path

import pandas as pd

from backtrail import layout
from backtrail.methods.disback import family
from backtrail.methods.disback.distillation import distil
from backtrail.methods.disback.path import load_path
from backtrail.metrics.curve_point import curve_point
from backtrail.nets.build import save_denoiser
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.tables import save_csv
from backtrail.training.loop import Execution


@distributed_stage
def command(stage: TorchStage) -> None:
    """Train a one-step student against the scores of a path; writes the averaged student, its curve, and snapshots for the mismatch."""
    p = stage.section(ScoreDistillation, f"score_distillation.{stage.method}")
    path = load_path(layout.path(*stage.of_method)).placed(stage.place)
    sampling = family.sampling(p, path.teacher)
    evaluate = curve_point(sampling.samplers(None, [1.0])[0], stage.value(Metrics, "metrics.n_curve"), stage.device)
    state = distil(path, p, stage.seed, evaluate, Execution(stage.scratch, stage.group))
    if not stage.writes:
        return
    student, fake, cost = state.modules["student"], state.modules["fake"], state.rows[-1]["cost"]
    told = {"sampling": sampling.model_dump(mode="json")}
    save_denoiser(layout.student(*stage.of_method), student, state.averages["student"], cost=cost, **told)
    node_at, folder = {f"{row['update']:09d}": row["node"] for row in state.rows}, Path(layout.snapshots(*stage.of_method))
    for snapshot, weights in state.snapshots.items():
        like = student if snapshot.startswith("student") else fake
        save_denoiser(folder / f"{snapshot}.safetensors", like, weights, node=node_at[snapshot.split("-")[1]], **told)
    save_csv(layout.curve(*stage.of_method), pd.DataFrame(state.rows))
    stage.record.notes |= {"repaired": state.repaired} if state.repaired else {}
