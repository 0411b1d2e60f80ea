"""`backtrail trajectory-distillation`: a few-step student on its teacher's trajectories (Algorithm 1, SFD, SFD-v, SFD's second stage)."""

import pandas as pd

from backtrail import layout
from backtrail.data.dataset import load_dataset
from backtrail.methods.sfd.distillation import distil
from backtrail.methods.sfd.trajectories import Pool, load_pool, sampled_facts, student_times
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.trajectory_distillation import SecondStage, TrajectoryDistillation
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.sampling.student import few_step_sampler
from backtrail.stages.measures import curve_point
from backtrail.tables import save_csv
from backtrail.tensors import load_tensors


@distributed_stage
def command(stage: TorchStage) -> None:
    """Train a student whose Euler steps land where its teacher's solver does; writes the student and its curve."""
    key = next(key for key in stage.declared.params if key.endswith(f".{stage.method}"))
    p, dataset = stage.section(TrajectoryDistillation, key), load_dataset(layout.DATASET)
    second = key.startswith("second_stage.")
    teacher_file = layout.student(stage.value(SecondStage, "second_stage.teacher_method"), stage.seed) if second else layout.TEACHER
    teacher = stage.place(load_denoiser(teacher_file))
    images, labels = dataset.train_images, dataset.train_labels
    pool = Pool(teacher, p, images) if second else load_pool(layout.trajectories(stage.method), teacher, p, images, labels)
    sampled, steps_told = sampled_facts(p), teacher.step_condition or p.step_condition != "none"
    sampler = few_step_sampler(sampled, p.num_steps[0], steps_told)
    evaluate = curve_point(sampler, stage.value(Metrics, "metrics.n_curve"), stage.device)
    start_cost = load_tensors(teacher_file)[1]["cost"] if second else 0
    state = distil(teacher, pool, p, stage.seed, evaluate, stage.scratch, start_cost, stage.group)
    if stage.writes:
        times = student_times(p, p.num_steps[0]).tolist()
        save_denoiser(layout.student(*stage.of_method), state.modules["student"], cost=state.notes["cost"], times=times, sampled=sampled)
        save_csv(layout.curve(*stage.of_method), pd.DataFrame(state.rows))
