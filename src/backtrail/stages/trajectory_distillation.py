"""`backtrail trajectory-distillation`: a few-step student on its teacher's trajectories (Algorithm 1, SFD, SFD-v, SFD's second stage)."""

import pandas as pd

from backtrail import layout
from backtrail.data.dataset import Labelled, load_dataset
from backtrail.methods.sfd import family
from backtrail.methods.sfd.distillation import distil
from backtrail.methods.sfd.trajectories import load_pool
from backtrail.metrics.curve_point import curve_point
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.trajectory_distillation import SecondStage, TrajectoryDistillation
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.tables import save_csv
from backtrail.training.loop import Execution


@distributed_stage
def command(stage: TorchStage) -> None:
    """Train a student whose Euler steps land where its teacher's solver does; writes the student and its curve."""
    key = next(key for key in stage.declared.params if key.endswith(f".{stage.method}"))
    p, dataset = stage.section(TrajectoryDistillation, key), load_dataset(layout.DATASET)
    second = key.startswith("second_stage.")
    teacher_file = layout.student(stage.value(SecondStage, "second_stage.teacher_method"), stage.seed) if second else layout.TEACHER
    teacher = stage.place(load_denoiser(teacher_file))
    if second:
        pool = family.second_stage_pool(teacher, teacher_file, p)
    else:
        pool = load_pool(layout.trajectories(stage.method), teacher, p, Labelled(dataset.train_images, dataset.train_labels))
    sampling = family.sampling(p, teacher)
    evaluate = curve_point(sampling.samplers(p.num_steps[:1], [1.0])[0], stage.value(Metrics, "metrics.n_curve"), stage.device)
    state = distil(pool, stage.seed, evaluate, Execution(stage.scratch, stage.group))
    if stage.writes:
        facts = {"cost": state.cost, "sampling": sampling.model_dump(mode="json")}
        save_denoiser(layout.student(*stage.of_method), state.modules["student"], **facts)
        save_csv(layout.curve(*stage.of_method), pd.DataFrame(state.rows))
