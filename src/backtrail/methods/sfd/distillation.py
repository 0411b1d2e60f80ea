"""Trajectory distillation (arXiv 2409.19681): Algorithm 1, SFD (Algorithm 2) and SFD-v are one step, fed from different places.

The student takes one Euler step where the teacher's solver takes K. It is updated once per step of its own walk; the state that it walks on
from is detached, so gradients never cross steps.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from backtrail.denoiser import NetDenoiser
from backtrail.methods.sfd.lpips import LPIPS, load_lpips
from backtrail.methods.sfd.trajectories import Piece, Pool, student_times, teacher_evaluations, told_steps
from backtrail.nets.build import with_step_condition
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.randomness import Draw
from backtrail.sampling.solvers import AnalyticalFirstStep, euler
from backtrail.training.loop import HERE, Execution, Losses, run
from backtrail.training.state import TrainingState, adam, optimiser_step

Evaluate = Callable[[NetDenoiser], float]


@dataclass
class TrajectoryRun(TrainingState):
    """A run of trajectory distillation: module "student"; its cost so far in forwards of the net on a batch, and its updates."""

    cost: int = 0
    updates: int = 0


def distil(pool: Pool, seed: int, evaluate: Evaluate, execution: Execution = HERE) -> TrajectoryRun:
    """Train a few-step student on a pool; returns the run, with its curve in `rows`.

    The student starts as a copy of the pool's teacher. `evaluate` gets the student and returns its distance to the data at the first of
    `num_steps`. Raises UserError if LPIPS is asked for and has no weights.
    """
    p, teacher = pool.p, pool.teacher
    perceptual = load_lpips(p.lpips.file, p.lpips.sha256).to(teacher.device) if p.lpips is not None else None
    student = copy.deepcopy(teacher)
    if p.step_condition != "none":
        student = with_step_condition(teacher, seed, random_start=p.step_condition == "random")
    # Dropout is the only part of the nets that train() turns on.
    student = (student.train() if p.dropout else student.eval()).requires_grad_(True)
    state = TrajectoryRun({"student": student}, {"student": adam(student, p.optimiser)}, group=execution.group, cost=pool.teacher_cost)
    for step, losses in run(state, lambda step: distil_round(state, pool, seed, step, perceptual), p.rounds, execution.scratch):
        if step % p.evaluate_every == 0 or step == p.rounds:
            evaluated = copy.deepcopy(student).eval()
            counts = {"update": state.updates, "total_updates": state.updates, "cost": state.cost, "node": 0}
            quality = {"nfe": p.num_steps[0] - 1 - p.afs, "fd_classifier": evaluate(evaluated)}
            state.rows.append({**counts, **quality, "loss_student": losses.get("student"), "loss_fake": None})
    return state


def distil_round(state: TrajectoryRun, pool: Pool, seed: int, step: int, perceptual: LPIPS | None = None) -> Losses:
    """One pass over one batch of the pool: an update per step of the student (Algorithm 2; a single one in Algorithm 1)."""
    p, student = pool.p, state.modules["student"]
    num_steps, batch = plan(p, seed, step)
    parts, own = state.group.parts(p.batch), state.group.own(p.batch)
    piece = pool.piece(num_steps, batch, own)
    first = own.rows.start
    walks = [walk(student, piece.of(slice(part.rows.start - first, part.rows.stop - first)), p) for part in parts]
    # The released loop looks after a round at how many came before it, so the round that reaches the share still has the full rate.
    factor = 0.1 if step - 1 >= p.decay_at * p.rounds else 1.0
    total = torch.zeros((), dtype=torch.float64, device=student.device)
    updates = len(piece.states) - 1 - (p.afs and piece.first == 0)
    for _ in range(updates):
        for part, steps in zip(parts, walks, strict=True):
            with Draw(seed, "student-dropout", state.updates, part).masks():
                index, predicted, target = next(steps)
                loss = DISTANCES[p.loss](predicted, target)
                if perceptual is not None and index == num_steps - 2:
                    loss = loss + predicted[0].numel() * perceptual(predicted, target).mean()
                (part.share * loss).backward()
            total += part.share * loss.detach().double()
        optimiser_step(state.optimisers["student"], p.optimiser, state.updates, factor, state.group)
        state.updates += 1
    # Charged as if computed here, cached or not: the cache saves time, not cost.
    state.cost += teacher_evaluations(p, num_steps) + 3 * updates
    return state.group.totals({"student": total / updates})


def plan(p: TrajectoryDistillation, seed: int, step: int) -> tuple[int, int]:
    """(num_steps, batch of the pool) of a round: num_steps uniform, batches in an order of the seed's own, again and again."""
    num_steps = p.num_steps[Draw(seed, "num-steps", step).integer(len(p.num_steps))]
    lap, place = divmod(step, p.pool)
    return num_steps, int(Draw(seed, f"pool-{num_steps}", lap).permutation(p.pool)[place])


def walk(student: NetDenoiser, piece: Piece, p: TrajectoryDistillation) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The student's Euler steps along a piece: yields (index of the step, x_n predicted, x_n of the teacher) for each that is learned.

    The next state is the detached prediction of the same forward, made before the update that the caller does between two yields.
    """
    times = student_times(p, piece.num_steps)
    states = piece.states.to(student.device)
    x, own = states[0], piece.condition.to(student.device) if piece.condition else None
    condition = told_steps(student, own, piece.num_steps, len(x))
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
