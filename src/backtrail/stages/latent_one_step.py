"""`backtrail latent-one-step`: a one-step student of a published latent teacher along a path (Diff-Instruct, DisBack)."""

import pandas as pd

from backtrail import layout
from backtrail.methods.disback import family
from backtrail.methods.disback.distillation import distil
from backtrail.methods.disback.offloaded import offloaded
from backtrail.methods.disback.path import load_path
from backtrail.metrics.latent_curve import CURVE, curve_point
from backtrail.nets.build import save_denoiser
from backtrail.nets.sharded import gathered
from backtrail.parameters.latent import LatentEvaluation, LatentTeacher, Processes
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.running.sharded import execution
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.tables import save_csv
from backtrail.teachers.latent_texts import load_texts, telling
from backtrail.training.sharded import ShardedGroup


@distributed_stage
def command(stage: TorchStage) -> None:
    """Train a one-step student against the scores of a path; writes the averaged student and its curve."""
    p = stage.section(ScoreDistillation, f"score_distillation.{stage.method}")
    latent = stage.section(LatentTeacher, "latent")
    place, executed = execution(stage, p.batch, stage.section(Processes, "processes").sharded and p.adapters is None)
    path = offloaded(load_path(layout.path(*stage.of_method)), telling(place, load_texts(layout.CAPTIONS)))
    sampling = family.sampling(p, path.teacher)
    evaluate = curve_point(sampling.samplers(None, [1.0])[0], stage.section(LatentEvaluation, "evaluation"), latent, stage.device)
    state = distil(path, p, stage.seed, evaluate, executed)
    average = gathered(state.averages["student"], stage.writes)
    if not stage.writes:
        return
    facts = {"cost": state.rows[-1]["cost"], "sampling": sampling.model_dump(mode="json")}
    save_denoiser(layout.student(*stage.of_method), state.modules["student"], average, **facts)
    save_csv(layout.curve(*stage.of_method), pd.DataFrame(state.rows).rename(columns=CURVE))
    # Of a divided run each process counts in the gradients that it holds.
    counted = "repaired_in_the_first_part" if isinstance(executed.group, ShardedGroup) else "repaired"
    stage.record.notes |= {counted: state.repaired} if state.repaired else {}
