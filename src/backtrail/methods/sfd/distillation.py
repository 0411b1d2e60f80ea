"""Trajectory distillation (arXiv 2409.19681): Algorithm 1, SFD (Algorithm 2) and SFD-v are one step, fed from different places.

The student takes one Euler step where the teacher's solver takes K. It is updated once per step of its own walk; the state that it walks on
from is detached, so gradients never cross steps.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from backtrail.denoiser import Condition, NetDenoiser
from backtrail.methods.sfd.lpips import LPIPS, load_lpips
from backtrail.methods.sfd.trajectories import Piece, Pool, student_times, teacher_evaluations
from backtrail.nets.build import with_step_condition
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.randomness import dropout_masks, integers, permutation
from backtrail.sampling.solvers import AnalyticalFirstStep, euler
from backtrail.training.group import ALONE, Group
from backtrail.training.loop import Losses, run
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState, adam, optimiser_step

Evaluate = Callable[[NetDenoiser], float]


def distil(
    teacher: NetDenoiser,
    pool: Pool,
    p: TrajectoryDistillation,
    seed: int,
    evaluate: Evaluate,
    scratch: Scratch | None = None,
    start_cost: int = 0,
    group: Group = ALONE,
) -> TrainingState:
    """Train a few-step student; returns the run: module "student", the curve in `rows`.

    The student starts as a copy of `teacher`, which in the second stage is the first stage's student and has cost `start_cost` (forwards
    of the net on a batch). `evaluate` gets the student and returns its distance to the data at the first of `num_steps`.
    Raises UserError if LPIPS is asked for and has no weights.
    """
    perceptual = load_lpips(p.lpips.file, p.lpips.sha256).to(teacher.device) if p.lpips is not None else None
    student = copy.deepcopy(teacher)
    if p.step_condition != "none":
        student = with_step_condition(teacher, seed, random_start=p.step_condition == "random")
    # Dropout is the only part of the nets that train() turns on.
    student = (student.train() if p.dropout else student.eval()).requires_grad_(True)
    notes = {"cost": start_cost, "updates": 0}
    state = TrainingState({"student": student}, {"student": adam(student, p.optimiser)}, notes=notes, group=group)
    for step, losses in run(state, lambda step: distil_round(state, pool, p, seed, step, perceptual), p.rounds, scratch):
        if step % p.evaluate_every == 0 or step == p.rounds:
            evaluated = copy.deepcopy(student).eval()
            counts = {"update": state.notes["updates"], "total_updates": state.notes["updates"], "cost": state.notes["cost"], "node": 0}
            quality = {"nfe": p.num_steps[0] - 1 - p.afs, "fd_classifier": evaluate(evaluated)}
            state.rows.append({**counts, **quality, "loss_student": losses.get("student"), "loss_fake": None})
    return state


def distil_round(
    state: TrainingState, pool: Pool, p: TrajectoryDistillation, seed: int, step: int, perceptual: LPIPS | None = None
) -> Losses:
    """One pass over one batch of the pool: an update per step of the student (Algorithm 2; a single one in Algorithm 1)."""
    student: NetDenoiser = state.modules["student"]  # type: ignore[assignment]
    num_steps, batch = plan(p, seed, step)
    parts, own = state.group.parts(p.batch), state.group.own(p.batch).rows
    piece = pool.piece(num_steps, batch, own)
    walks = [walk(student, piece.of(slice(part.rows.start - own.start, part.rows.stop - own.start)), p) for part in parts]
    factor = 0.1 if step >= p.decay_at * p.rounds else 1.0
    total, updates = 0.0, len(piece.states) - 1 - (p.afs and piece.first == 0)
    for _ in range(updates):
        for part, steps in zip(parts, walks, strict=True):
            with dropout_masks(seed, "student-dropout", state.notes["updates"], part.rows.start):
                index, predicted, target = next(steps)
                loss = DISTANCES[p.loss](predicted, target)
                if perceptual is not None and index == num_steps - 2:
                    loss = loss + predicted[0].numel() * perceptual(predicted, target).mean()
                (part.share * loss).backward()
            total += part.share * loss.item()
        optimiser_step(state.optimisers["student"], p.optimiser, state.notes["updates"], factor, state.group)
        state.notes["updates"] += 1
    # Charged as if computed here, cached or not: the cache saves time, not cost.
    state.notes["cost"] += teacher_evaluations(p, num_steps) + 3 * updates
    return {"student": state.group.total(total / updates, student.device)}


def plan(p: TrajectoryDistillation, seed: int, step: int) -> tuple[int, int]:
    """(num_steps, batch of the pool) of a round: num_steps uniform, batches in an order of the seed's own, again and again."""
    num_steps = p.num_steps[int(integers(len(p.num_steps), (1,), seed, "num-steps", step))]
    lap, place = divmod(step, p.pool)
    return num_steps, int(permutation(p.pool, seed, f"pool-{num_steps}", lap)[place])


def walk(student: NetDenoiser, piece: Piece, p: TrajectoryDistillation) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The student's Euler steps along a piece: yields (index of the step, x_n predicted, x_n of the teacher) for each that is learned.

    The next state is the detached prediction of the same forward, made before the update that the caller does between two yields.
    """
    times = student_times(p, piece.num_steps)
    states = piece.states.to(student.device)
    labels = None if piece.labels is None else piece.labels.to(student.device)
    x = states[0]
    told = torch.full((len(x),), float(piece.num_steps), device=x.device) if student.step_condition else None
    condition = Condition(labels, told)
    for offset, target in enumerate(states[1:]):
        index = piece.first + offset
        pair = times[index : index + 2]
        if p.afs and index == 0:
            (x,) = euler(AnalyticalFirstStep(student), x, pair, condition)
            continue
        (predicted,) = euler(student, x, pair, condition)
        yield index, predicted, target
        x = predicted.detach()


def _l1(x: Tensor, y: Tensor) -> Tensor:
    """SFD's distance: the absolute error summed over an image."""
    return (x - y).abs().flatten(1).sum(dim=1).mean()


def _l2(x: Tensor, y: Tensor) -> Tensor:
    """The squared error summed over an image."""
    return (x - y).square().flatten(1).sum(dim=1).mean()


def _huber(x: Tensor, y: Tensor) -> Tensor:
    """Pseudo-Huber (arXiv 2310.14189, Eq. 10) with c = 0.00054 sqrt(d), d the number of values of an image."""
    squared = (x - y).square().flatten(1).sum(dim=1)
    c = 0.00054 * x[0].numel() ** 0.5
    return ((squared + c**2).sqrt() - c).mean()


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": _l1, "l2": _l2, "huber": _huber, "l1+lpips": _l1}  # LPIPS: last step only
