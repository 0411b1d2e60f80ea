"""What is known of trajectory distillation (Algorithm 1, SFD, SFD-v) beside its training: what students start from, are sampled by, cost.

Costs are forwards of the network on one image, counted from the parameters alone; a forward with its backward is three.
"""

from pathlib import Path

from backtrail.denoiser import NetDenoiser
from backtrail.methods.sfd.trajectories import Pool, teacher_evaluations
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.sampling.student import FewStep
from backtrail.tensors import load_tensors


def sampling(p: TrajectoryDistillation, teacher: NetDenoiser | None = None) -> FewStep:
    """How a student that `p` trains is sampled; a student of a teacher that is told its time stamps is told them too."""
    told = p.step_condition != "none" or (teacher is not None and teacher.step_condition)
    return FewStep(schedule=p.schedule, afs=p.afs, step_condition=told, num_steps=p.num_steps)


def second_stage_pool(teacher: NetDenoiser, file: str | Path, p: TrajectoryDistillation) -> Pool:
    """The pool of SFD's second stage, whose teacher is the student in `file` and has cost what that file says."""
    return Pool(teacher, p, teacher_cost=load_tensors(file)[1]["cost"])


def pool_forwards(p: TrajectoryDistillation) -> float:
    """The pool of trajectories, where it is cached."""
    return p.pool * p.batch * sum(teacher_evaluations(p, n) for n in p.num_steps) if p.cached else 0


def training_forwards(p: TrajectoryDistillation, n_curve: int) -> float:
    """The training of a student whose curve is measured on `n_curve` images."""
    n_kinds = len(p.num_steps)
    # A round on the student's own walk updates at each of its evaluations, one on data at a single one.
    trained = 3 * (sum(n - 1 - p.afs for n in p.num_steps) / n_kinds if p.inputs == "trajectory" else 1)
    taught = 0 if p.cached else sum(teacher_evaluations(p, n) for n in p.num_steps) / n_kinds
    evaluations = len({*range(0, p.rounds + 1, p.evaluate_every), p.rounds})
    [measured] = sampling(p).samplers(p.num_steps[:1], [1.0])
    return p.rounds * p.batch * (trained + taught) + evaluations * n_curve * measured.nfe
