"""Score distillation along a path of targets: Diff-Instruct (arXiv 2305.18455) and DisBack (arXiv 2408.15991, Algorithm 2).

The student's gradient is E[w(sigma) (s_fake(x_t) - s_target(x_t)) dx_t/d eta] (DisBack, Eq. 8). The target walks the recorded path
backwards, from the node before the last to the teacher; the fake score starts from the last node and is carried over at each switch. With a
path of one node the target is the teacher throughout: that is Diff-Instruct.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backtrail.denoiser import NetDenoiser, per_image
from backtrail.methods.disback.one_step import diffuse, draw_labels, generate, given, initial_student, rows_of, student_input
from backtrail.methods.disback.path import DegradationPath
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.training import Adam
from backtrail.randomness import dropout_masks
from backtrail.training.group import ALONE, Group, Part
from backtrail.training.loop import Losses, run
from backtrail.training.noise import edm_loss
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState, adam, optimiser_step, snapshot, update_average, weights

Evaluate = Callable[[NetDenoiser], float]


def distil(
    path: DegradationPath,
    p: ScoreDistillation,
    shape: tuple[int, ...],
    seed: int,
    evaluate: Evaluate,
    scratch: Scratch | None = None,
    start: NetDenoiser | None = None,
    start_cost: int = 0,
    group: Group = ALONE,
) -> TrainingState:
    """Train a one-step student; returns the run: modules "student" and "fake", average "student", curve in `rows`, snapshots.

    shape is one image's [C, H, W]. `evaluate` gets the averaged student and returns its distance to the data. `start` is the initial
    student where it is neither the teacher nor random, and `start_cost` what it has cost, in forwards of the net on a batch.
    """
    state = initial_state(path, p, seed, start)
    state.group = group
    schedule = TargetSchedule(path, p)
    evaluated = copy.deepcopy(state.modules["student"]).eval()

    def log(losses: Losses) -> None:
        evaluated.load_state_dict(state.averages["student"])
        # The row of update 0 is the initial student, which has cost its start and the recording.
        cost = start_cost + path.cost + state.step * update_cost(p)
        state.rows.append(
            {"update": state.step, "total_updates": state.step + path.recorded_steps, "cost": cost, "node": state.notes["target"], "nfe": 1}
            | {"fd_classifier": evaluate(evaluated), "loss_student": losses.get("student"), "loss_fake": losses.get("fake")}
        )
        if state.step in p.snapshots or state.step == p.updates:
            for name in ("student", "fake"):
                state.snapshots[f"{name}-{state.step:09d}"] = snapshot(state.modules[name])

    for step, losses in run(state, lambda step: update(state, path, schedule, p, shape, seed, step), p.updates, scratch):
        if step % p.evaluate_every == 0 or step in p.snapshots or step == p.updates:
            log(losses)
    return state


def initial_state(path: DegradationPath, p: ScoreDistillation, seed: int, start: NetDenoiser | None = None) -> TrainingState:
    """Student G^0 and fake score s'_N (DisBack, Algorithm 2, first line); for a path of one node the fake score is the teacher."""
    student = initial_student(path.teacher, p.student_start, seed, start)
    fake = copy.deepcopy(path.nodes[-1] if p.fake_start == "last-node" else path.teacher)
    modules = {"student": student.train(p.dropout).requires_grad_(True), "fake": fake.eval().requires_grad_(True)}
    return TrainingState(
        modules,
        {"student": adam(student, p.student), "fake": adam(fake, p.fake)},
        averages={"student": weights(student)},
        # node: the target to come, target: the one of the last update.
        notes={"node": first_node(path, p), "target": first_node(path, p), "mismatch": []},
    )


def first_node(path: DegradationPath, p: ScoreDistillation) -> int:
    """The target of the first update: the node before the last, or the teacher."""
    return max(len(path.nodes) - 2, 0) if p.target == "path" else 0


class TargetSchedule:
    """Which node is the target of an update: down from N - 1 to the teacher (node 0), which takes the rest of the budget."""

    def __init__(self, path: DegradationPath, p: ScoreDistillation):
        self.p, self.first = p, first_node(path, p)
        self.ends = self._fixed_ends(path) if p.node_budget != "adaptive" else []

    def node(self, step: int, state: TrainingState) -> int:
        """The target's index for the update `step` (from 0)."""
        if self.p.node_budget == "adaptive":
            return state.notes["node"]
        return self.first - sum(step >= end for end in self.ends)

    def observe(self, mismatch: float, state: TrainingState) -> None:
        """Adaptive budgets: move on when the mean mismatch of the last window is no lower than that of the window before."""
        if self.p.node_budget != "adaptive" or state.notes["node"] == 0:
            return
        seen, window = state.notes["mismatch"], self.p.node_updates
        seen.append(mismatch)
        if len(seen) >= 2 * window and sum(seen[-window:]) >= sum(seen[-2 * window : -window]):
            state.notes.update(node=state.notes["node"] - 1, mismatch=[])

    def _fixed_ends(self, path: DegradationPath) -> list[int]:
        """The update at which each intermediate node's budget ends, in the order in which they are visited."""
        budgets = [float(self.p.node_updates)] * self.first
        if self.p.node_budget == "proportional" and self.first:
            losses = path.table["loss_student"].tolist()
            falls = [max(losses[i] - losses[i + 1], 0.0) for i in range(self.first, 0, -1)]
            # One update each, the others in proportion: the sum stays what the parameters were checked for.
            share = (sum(budgets) - len(budgets)) / sum(falls) if sum(falls) > 0 else 0.0
            budgets = [1.0 + fall * share for fall in falls] if share else budgets
        return [round(sum(budgets[: k + 1])) for k in range(len(budgets))]


def update(
    state: TrainingState,
    path: DegradationPath,
    schedule: TargetSchedule,
    p: ScoreDistillation,
    shape: tuple[int, ...],
    seed: int,
    step: int,
) -> Losses:
    """One iteration: the fake score follows the student's samples, the student follows the difference of the scores.

    The student runs forward once for both losses (8 forwards; the released Diff-Instruct runs it twice, 9). No gradient reaches the target,
    and none reaches the fake score through the student's loss.
    """
    state.notes["target"] = schedule.node(step, state)
    target = path.nodes[state.notes["target"]]
    batch = Batch(
        student_input((p.batch, *shape), p.sigma_init, seed, "distil-z", step, target.device),
        draw_labels(target.n_classes, p.batch, seed, "distil-label", step, target.device),
        seed,
        step,
    )
    totals = (_shared_steps if p.shared_noise else _separate_steps)(state, target, p, batch)
    losses = {name: state.group.total(value, target.device) for name, value in totals.items()}
    _average_student(state, p, step)
    schedule.observe(losses.pop("mismatch"), state)
    return losses


@dataclass(frozen=True)
class Batch:
    """The student's inputs of an update, [B, C, H, W], their labels [B], and what the update's draws are functions of."""

    z: Tensor
    labels: Tensor | None
    seed: int
    step: int

    def samples(self, student: torch.nn.Module, p: ScoreDistillation, part: Part) -> Tensor:
        """x0 of a part of the batch."""
        with dropout_masks(self.seed, "student-dropout", self.step, part.rows.start):
            return generate(student, self.z[part.rows], p.sigma_init, rows_of(self.labels, part))


def _separate_steps(state: TrainingState, target: NetDenoiser, p: ScoreDistillation, batch: Batch) -> Losses:
    """Both losses with their own noise, in the order that `p` names; returns them and the raw mismatch |D_target - x0|.

    In one pass the student runs once for both losses. In several its samples are made first, and again for its own gradient: a forward
    more, and the memory of one pass.
    """
    parts, student = state.group.parts(len(batch.z)), state.modules["student"]
    if len(parts) == 1:
        samples = [batch.samples(student, p, parts[0])]
    else:
        with torch.no_grad():
            samples = [batch.samples(student, p, part) for part in parts]
    totals = dict.fromkeys(("fake", "student", "mismatch"), 0.0)
    for turn in ("fake", "student") if p.order == "fake-first" else ("student", "fake"):
        if turn == "fake":
            for draw in range(batch.step * p.fake_per_student, (batch.step + 1) * p.fake_per_student):
                totals["fake"] = 0.0
                for part, x0 in zip(parts, samples, strict=True):
                    noisy, sigma = diffuse(x0.detach(), p.noise_fake, batch.seed, "fake", draw, part)
                    with dropout_masks(batch.seed, "fake-dropout", draw, part.rows.start):
                        denoised = state.modules["fake"].train(p.dropout)(noisy, sigma, given(rows_of(batch.labels, part)))
                        totals["fake"] += _add_fake_gradient(state, denoised, x0.detach(), sigma, part)
                _step(state, "fake", p.fake, p, draw)
        else:
            for part, x0 in zip(parts, samples, strict=True):
                x0 = x0 if x0.requires_grad else batch.samples(student, p, part)
                noisy, sigma = diffuse(x0.detach(), p.noise_student, batch.seed, "student", batch.step, part)
                labels = given(rows_of(batch.labels, part))
                with torch.no_grad():
                    # Without dropout, so that equal scores differ by nothing; the released code replays one mask for both nets.
                    denoised_fake = state.modules["fake"].eval()(noisy, sigma, labels)
                    denoised_target = target(noisy, sigma, labels)
                totals["student"] += _add_student_gradient(p, denoised_fake, denoised_target, x0, sigma, part)
                totals["mismatch"] += part.share * _distance(denoised_target, x0)
            _step(state, "student", p.student, p, batch.step)
    return totals


def _shared_steps(state: TrainingState, target: NetDenoiser, p: ScoreDistillation, batch: Batch) -> Losses:
    """Both losses on the same noisy samples: the fake score's forward serves both, seven forwards in all.

    The student then sees the fake score before its update of this iteration, and both losses share the student's noise law: another
    estimator, faster and slightly staler.
    """
    totals = dict.fromkeys(("fake", "student", "mismatch"), 0.0)
    for part in state.group.parts(len(batch.z)):
        x0, labels = batch.samples(state.modules["student"], p, part), given(rows_of(batch.labels, part))
        noisy, sigma = diffuse(x0.detach(), p.noise_student, batch.seed, "student", batch.step, part)
        with dropout_masks(batch.seed, "fake-dropout", batch.step, part.rows.start):
            denoised_fake = state.modules["fake"].train(p.dropout)(noisy, sigma, labels)
            with torch.no_grad():
                denoised_target = target(noisy, sigma, labels)
            totals["student"] += _add_student_gradient(p, denoised_fake.detach(), denoised_target, x0, sigma, part)
            totals["fake"] += _add_fake_gradient(state, denoised_fake, x0.detach(), sigma, part)
        totals["mismatch"] += part.share * _distance(denoised_target, x0)
    _step(state, "student", p.student, p, batch.step)
    _step(state, "fake", p.fake, p, batch.step)
    return totals


def _add_fake_gradient(state: TrainingState, denoised: Tensor, x0: Tensor, sigma: Tensor, part: Part) -> float:
    """Denoising score matching of the fake score on the student's samples (DisBack, Eq. 5); returns the part's share of the loss."""
    loss = part.share * edm_loss(denoised, x0, sigma, state.modules["fake"].sigma_data)
    loss.backward()
    return loss.item()


def _add_student_gradient(
    p: ScoreDistillation, denoised_fake: Tensor, denoised_target: Tensor, x0: Tensor, sigma: Tensor, part: Part
) -> float:
    """The student's gradient (DisBack, Eq. 8); returns the part's share of the mean absolute weighted score difference."""
    gradient = score_gradient(denoised_fake, denoised_target, x0.detach(), sigma, p.weighting)
    # The gradient of mean_B sum(g * x0) with g held fixed is g / B at x0: the score difference enters where dx_t / dx0 = 1.
    x0.backward(gradient / part.batch)
    return part.share * gradient.abs().mean().item()


def _step(state: TrainingState, name: str, adam: Adam, p: ScoreDistillation, step: int) -> None:
    """One update of a module by the gradients that its passes have left."""
    state.group.add_up(parameter.grad for parameter in state.modules[name].parameters() if parameter.grad is not None)
    _repair(state, state.modules[name], p)
    optimiser_step(state.optimisers[name], adam, step)


def _distance(denoised: Tensor, x0: Tensor) -> float:
    return (denoised - x0.detach()).flatten(1).norm(dim=1).mean().item()


def score_gradient(fake: Tensor, target: Tensor, x0: Tensor, sigma: Tensor, weighting: str) -> Tensor:
    """w(sigma) (s_fake - s_target) at x_t, from the denoised estimates of both, [B, C, H, W].

    s_fake - s_target = (D_fake - D_target) / sigma^2, so w = 1 keeps the division, w = sigma^2 (Diff-Instruct's code) drops it, and DMD's
    normalisation divides by the mean absolute error of the target per image instead (arXiv 2311.18828, Eq. 8).
    """
    difference = fake - target
    if weighting == "constant":
        return difference / per_image(sigma, x0) ** 2
    if weighting == "dmd":
        return difference / (x0 - target).flatten(1).abs().mean(dim=1).clamp_min(1e-8).reshape(-1, 1, 1, 1)
    return difference


def update_cost(p: ScoreDistillation) -> int:
    """Forwards on one batch per update: student 3, target 1, fake score 3 each, and 1 for its value in the student's loss unless shared."""
    return 7 if p.shared_noise else 3 + 1 + 3 * p.fake_per_student + 1


def _average_student(state: TrainingState, p: ScoreDistillation, step: int) -> None:
    """The average that is evaluated; without one, the student's weights themselves."""
    student = state.modules["student"]
    if p.average is None:
        state.averages["student"] = weights(student)
    else:
        update_average(state.averages["student"], student, p.average, step, p.batch)


def _repair(state: TrainingState, module: torch.nn.Module, p: ScoreDistillation) -> None:
    """The released code's silent repair of gradients, as an option whose use is counted."""
    if not p.nan_to_num:
        return
    for parameter in module.parameters():
        if parameter.grad is not None:
            bad = int((~torch.isfinite(parameter.grad)).sum())
            if bad:
                state.notes["repaired"] = state.notes.get("repaired", 0) + bad
                torch.nan_to_num_(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5)
