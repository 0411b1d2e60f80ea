"""`backtrail text-few-step`: SFD or SFD-v on the latent teacher."""

import pandas as pd

from backtrail import layout
from backtrail.data.caption_archive import load_captions
from backtrail.methods.sfd import family
from backtrail.methods.sfd.distillation import distil
from backtrail.methods.sfd.trajectories import Pool
from backtrail.metrics.decoded import curve_point
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.parameters.text import TextEvaluation, TextWorld
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.tables import save_csv
from backtrail.teachers.prompts import prompts
from backtrail.training.loop import Execution


@torch_stage
def command(stage: TorchStage) -> None:
    """Train a student whose Euler steps land where its teacher's solver does, both without guidance; writes the student and its curve."""
    p, e = stage.section(TrajectoryDistillation, f"trajectory_distillation.{stage.method}"), stage.section(TextEvaluation, "evaluation")
    teacher = load_denoiser(layout.TEACHER)
    teacher.told = prompts(load_captions(layout.CAPTIONS), stage.value(TextWorld, "text.null_text"), e.prompts)
    sampling = family.sampling(p, teacher)
    distance = curve_point(sampling.samplers(p.num_steps[:1], [1.0])[0], e.n_curve, stage.device)
    state = distil(Pool(stage.place(teacher), p), stage.seed, distance, Execution(stage.scratch))
    facts = {"cost": state.cost, "sampling": sampling.model_dump(mode="json")}
    save_denoiser(layout.student(*stage.of_method), state.modules["student"], **facts)
    save_csv(layout.curve(*stage.of_method), pd.DataFrame(state.rows))
