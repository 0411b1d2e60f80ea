"""What is known of score distillation (Diff-Instruct, DisBack) beside its training: what students start from, are sampled by, and cost.

Costs are forwards of the network on one image, counted from the parameters alone; a forward with its backward is three.
"""

from pathlib import Path

from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.methods.disback.distillation import update_cost
from backtrail.methods.disback.path import Origin
from backtrail.methods.disback.recording import DEFAULT_EVALUATION_BATCH
from backtrail.nets.build import at_step_condition, load_denoiser
from backtrail.parameters.metrics import Mismatch
from backtrail.parameters.score_distillation import PathParameters, ScoreDistillation
from backtrail.sampling.student import FewStep, OneStep, student_sampling
from backtrail.tensors import load_tensors


def sampling(p: ScoreDistillation) -> OneStep:
    """How a student that `p` trains is sampled."""
    return OneStep(sigma_init=p.sigma_init)


def origin(teacher: NetDenoiser, start: str | Path | None, p: PathParameters) -> Origin:
    """Where the paths of `p` begin: at the teacher, or at the student of another method in the file `start`.

    That student is taken as a net without a step condition. Raises UserError if its file is absent, or it is not sampled by one evaluation
    at the noise level sigma_init.
    """
    if start is None:
        return Origin(teacher)
    facts, level = student_sampling(start), None
    if isinstance(facts, FewStep) and facts.num_steps == [3] and facts.afs:
        level = facts.samplers([3], [1.0])[0].levels()[1]
    if level is None or abs(level - p.sigma_init) > 1e-3 * p.sigma_init:
        found = "makes more than one evaluation" if level is None else f"is evaluated at sigma {level:.6f}"
        raise UserError(
            f"{start} {found}, and sigma_init = {p.sigma_init}: the student to start from must have three time stamps with the analytical "
            "first step, and sigma_init must be the middle one"
        )
    return Origin(teacher, at_step_condition(load_denoiser(start), 3), load_tensors(start)[1]["cost"])


def path_forwards(p: PathParameters) -> float:
    """The recording of a path, and the path's loss at each place that may become a node."""
    recording = p.recording
    if recording is None:
        return 2 * DEFAULT_EVALUATION_BATCH
    return recording.steps * 4 * p.batch + (recording.steps // recording.candidates + 1) * 2 * recording.evaluation_batch


def training_forwards(p: ScoreDistillation, n_curve: int) -> float:
    """The training of a student whose curve is measured on `n_curve` images."""
    evaluations = len({*range(0, p.updates + 1, p.evaluate_every), *p.snapshots, p.updates})
    return update_cost(p) * p.updates * p.batch + evaluations * n_curve


def mismatch_forwards(p: ScoreDistillation, m: Mismatch) -> float:
    """The mismatch degree at each snapshot: the fit of the student's score, and what both scores say of its samples."""
    return len({*p.snapshots, p.updates}) * (4 * m.fit_steps * p.batch + m.n_samples * (1 + 2 * len(m.sigmas)))
