"""`backtrail latent-few-step`: SFD or SFD-v on a published latent teacher."""

import pandas as pd

from backtrail import layout
from backtrail.methods.sfd import family
from backtrail.methods.sfd.distillation import distil
from backtrail.methods.sfd.trajectories import Pool
from backtrail.metrics.latent_curve import CURVE, curve_point
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.nets.sharded import gathered
from backtrail.parameters.latent import LatentEvaluation, LatentTeacher, Processes
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.running.sharded import execution
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.tables import save_csv
from backtrail.teachers.latent_texts import load_texts, telling


@distributed_stage
def command(stage: TorchStage) -> None:
    """Train a student whose Euler steps land where its teacher's solver does, both without guidance; writes the student and its curve."""
    p = stage.section(TrajectoryDistillation, f"trajectory_distillation.{stage.method}")
    latent = stage.section(LatentTeacher, "latent")
    place, executed = execution(stage, p.batch, stage.section(Processes, "processes").sharded and p.lora is None)
    teacher = telling(place, load_texts(layout.CAPTIONS))(load_denoiser(layout.TEACHER))
    sampling = family.sampling(p, teacher)
    evaluate = curve_point(
        sampling.samplers(p.num_steps[:1], [1.0])[0], stage.section(LatentEvaluation, "evaluation"), latent, stage.device
    )
    state = distil(Pool(teacher, p), stage.seed, evaluate, executed)
    weights = gathered(state.modules["student"].state_dict(), stage.writes)
    if stage.writes:
        facts = {"cost": state.cost, "sampling": sampling.model_dump(mode="json")}
        save_denoiser(layout.student(*stage.of_method), state.modules["student"], weights, **facts)
        save_csv(layout.curve(*stage.of_method), pd.DataFrame(state.rows).rename(columns=CURVE))
