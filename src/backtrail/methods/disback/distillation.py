"""Score distillation along a path of targets: Diff-Instruct (arXiv 2305.18455) and DisBack (arXiv 2408.15991, Algorithm 2).

The student's gradient is E[w(sigma) (s_fake(x_t) - s_target(x_t)) dx_t/d eta] (DisBack, Eq. 8). The target walks the recorded path
backwards, from the node before the last to the teacher; the fake score starts from the last node and is carried over at each switch. With a
path of one node the target is the teacher throughout: that is Diff-Instruct.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backtrail.conditions import Condition
from backtrail.denoiser import Denoiser, NetDenoiser, guided, per_image
from backtrail.methods.disback.one_step import generate, initial_student, student_input
from backtrail.methods.disback.path import DegradationPath
from backtrail.nets.lora import to_train
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.training import Adam
from backtrail.randomness import Draw, Part
from backtrail.training.loop import HERE, Execution, Losses, run
from backtrail.training.noise import denoising_loss, diffuse, per_value, score_matching_loss
from backtrail.training.state import TrainingState, adam, optimiser_step, snapshot, update_average, weights

Evaluate = Callable[[NetDenoiser], float]


@dataclass
class ScoreRun(TrainingState):
    """A run of score distillation: modules "student" and "fake", average "student".

    node: the target to come; target: that of the last update; mismatch: what adaptive budgets have seen on the node; repaired: values of
    gradients that were not finite and have been replaced; guided: updates whose target was under guidance, which cost a forward more.
    """

    node: int = 0
    target: int = 0
    mismatch: list[float] = field(default_factory=list)
    repaired: int = 0
    guided: int = 0


def distil(path: DegradationPath, p: ScoreDistillation, seed: int, evaluate: Evaluate, execution: Execution = HERE) -> ScoreRun:
    """Train a one-step student along a path; returns the run, with its curve in `rows` and the snapshots that `p` names.

    `evaluate` gets the averaged student and returns its distance to the data.
    """
    for law in (p.noise_student, p.noise_fake):
        path.teacher.check_noise(law)
    state = initial_state(path, p, seed)
    state.group = execution.group
    schedule = TargetSchedule(path, p)
    evaluated = copy.deepcopy(state.modules["student"]).eval()

    def log(losses: Losses) -> None:
        evaluated.load_state_dict(state.averages["student"])
        # The row of update 0 is the initial student, which has cost its start and the recording.
        cost = path.cost + state.step * update_cost(p) + state.guided
        state.rows.append(
            {"update": state.step, "total_updates": state.step + path.recorded_steps, "cost": cost, "node": state.target, "nfe": 1}
            | {"fd_classifier": evaluate(evaluated), "loss_student": losses.get("student"), "loss_fake": losses.get("fake")}
        )
        if state.step in p.snapshots or state.step == p.updates:
            for name in ("student", "fake"):
                state.snapshots[f"{name}-{state.step:09d}"] = snapshot(state.modules[name])

    for step, losses in run(state, lambda step: update(state, schedule, seed, step), p.updates, execution.scratch):
        if step % p.evaluate_every == 0 or step in p.snapshots or step == p.updates:
            log(losses)
    return state


def initial_state(path: DegradationPath, p: ScoreDistillation, seed: int) -> ScoreRun:
    """Student G^0 and fake score s'_N (DisBack, Algorithm 2, first line); for a path of one node the fake score is the teacher."""
    student = initial_student(path.teacher, p.student_start, seed, path.start, p.adapters)
    fake = to_train(path.nodes[-1] if p.fake_start == "last-node" else path.teacher, p.adapters, seed, "fake")
    modules = {"student": student.train(p.dropout).requires_grad_(True), "fake": fake.eval().requires_grad_(True)}
    optimisers, first = {"student": adam(student, p.student), "fake": adam(fake, p.fake)}, first_node(path, p)
    return ScoreRun(modules, optimisers, averages={"student": weights(student)}, node=first, target=first)


def first_node(path: DegradationPath, p: ScoreDistillation) -> int:
    """The target of the first update: the node before the last, or the teacher."""
    return max(len(path.nodes) - 2, 0) if p.target == "path" else 0


def target_of(path: DegradationPath, node: int, p: ScoreDistillation) -> Denoiser:
    """The target that a node is: under guidance, where `p` asks for it.

    Nodes are fitted without guidance, so that a weight on them extrapolates from a branch that was never trained: theirs is of its own.
    """
    return guided(path.nodes[node], target_guidance(node, p), path.teacher.conditions)


def target_guidance(node: int, p: ScoreDistillation) -> float:
    """The weight of guidance of a node as target; node 0 is the teacher."""
    return p.node_guidance if node else p.teacher_guidance


class TargetSchedule:
    """Which node is the target of an update: down from N - 1 to the teacher (node 0), which takes the rest of the budget."""

    def __init__(self, path: DegradationPath, p: ScoreDistillation):
        self.path, self.p, self.first = path, p, first_node(path, p)
        self.ends = self._fixed_ends(path) if p.node_budget != "adaptive" else []

    def node(self, step: int, state: ScoreRun) -> int:
        """The target's index for the update `step` (from 0)."""
        return state.node if self.p.node_budget == "adaptive" else self.first - sum(step >= end for end in self.ends)

    def observe(self, mismatch: float, state: ScoreRun) -> None:
        """Adaptive budgets: move on when the mean mismatch of the last window is no lower than that of the window before."""
        if self.p.node_budget != "adaptive" or state.node == 0:
            return
        seen, window = state.mismatch, self.p.node_updates
        seen.append(mismatch)
        if len(seen) >= 2 * window and sum(seen[-window:]) >= sum(seen[-2 * window : -window]):
            state.node, state.mismatch = state.node - 1, []

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


def update(state: ScoreRun, schedule: TargetSchedule, seed: int, step: int) -> Losses:
    """One iteration: the fake score follows the student's samples, the student follows the difference of the scores.

    The student runs forward once for both losses (8 forwards; the released Diff-Instruct runs it twice, 9). No gradient reaches the target,
    and none reaches the fake score through the student's loss. Losses are returned per value of an image; those descended are sums over it.
    """
    p, draw = schedule.p, Draw(seed, "distil", step)
    state.target = schedule.node(step, state)
    target, teacher = target_of(schedule.path, state.target, p), schedule.path.teacher
    state.guided += target_guidance(state.target, p) != 1
    z, condition = student_input(teacher, p.batch, p.sigma_init, draw.of("z")), teacher.draw_condition(draw.of("label"), p.batch)
    batch = Batch(z, condition, seed, step)
    losses = state.group.totals((_shared_steps if p.shared_noise else _separate_steps)(state, target, p, batch))
    _average_student(state, p, step)
    schedule.observe(losses.pop("mismatch"), state)
    return losses


@dataclass(frozen=True)
class Samples:
    """What the student makes of a part of a batch: x0 [b, C, H, W], and under which condition."""

    x0: Tensor
    condition: Condition | None
    part: Part


@dataclass(frozen=True)
class Batch:
    """The student's inputs of an update, [B, C, H, W], their conditions, and what the update's draws are functions of."""

    z: Tensor
    condition: Condition | None
    seed: int
    step: int

    def samples(self, student: NetDenoiser, p: ScoreDistillation, part: Part) -> Samples:
        """The student's samples of a part of the batch."""
        condition = None if self.condition is None else self.condition.rows(part.rows)
        with self.draw("student-dropout").rows(part).masks():
            return Samples(generate(student, self.z[part.rows], p.sigma_init, condition), condition, part)

    def draw(self, purpose: str, step: int | None = None) -> Draw:
        """A draw of this update, or of one that has another count."""
        return Draw(self.seed, purpose, self.step if step is None else step)


def _separate_steps(state: ScoreRun, target: Denoiser, p: ScoreDistillation, batch: Batch) -> dict[str, Tensor]:
    """Both losses with their own noise, in the order that `p` names; returns them and the raw mismatch |D_target - x0|.

    In one pass the student runs once for both losses. In several its samples are made first, and again for its own gradient: a forward
    more, and the memory of one pass.
    """
    parts, student, totals = state.group.parts(len(batch.z)), state.modules["student"], _zeros(state)
    with torch.set_grad_enabled(len(parts) == 1):
        made = [batch.samples(student, p, part) for part in parts]
    for turn in ("fake", "student") if p.order == "fake-first" else ("student", "fake"):
        if turn == "fake":
            for k in range(batch.step * p.fake_per_student, (batch.step + 1) * p.fake_per_student):
                totals["fake"] = torch.stack([_descend_fake(state, p, samples, batch.draw("fake", k)) for samples in made]).sum()
                _step(state, "fake", p.fake, p, k)
        else:
            for samples in made:
                again = samples if len(parts) == 1 else batch.samples(student, p, samples.part)
                gradient, mismatch = _estimates(state, target, p, again, batch.draw("student"))
                totals["student"] += _descend_student(again, gradient)
                totals["mismatch"] += mismatch
            _step(state, "student", p.student, p, batch.step)
    return totals


def _descend_fake(state: ScoreRun, p: ScoreDistillation, samples: Samples, draw: Draw) -> Tensor:
    """Denoising score matching of the fake score on the student's samples (DisBack, Eq. 5); returns the part's share, per value."""
    fake, own = state.modules["fake"].train(p.dropout), draw.rows(samples.part)
    with own.of("dropout").masks():
        loss = samples.part.share * score_matching_loss(fake, samples.x0.detach(), p.noise_fake, own, samples.condition)
        loss.backward()
    return per_value(loss, samples.x0)


@torch.no_grad()
def _estimates(state: ScoreRun, target: Denoiser, p: ScoreDistillation, samples: Samples, draw: Draw) -> tuple[Tensor, Tensor]:
    """The score difference at the student's diffused samples, weighted, and the part's share of the mismatch.

    x_t and both estimates are dropped on return, before the student's backward pass asks for memory.
    """
    x0 = samples.x0.detach()
    noisy, sigma = diffuse(x0, p.noise_student, draw.rows(samples.part))
    # Without dropout, so that equal scores differ by nothing; the released code replays one mask for both nets.
    of_fake, of_target = (net(noisy, sigma, samples.condition) for net in (state.modules["fake"].eval(), target))
    return score_gradient(of_fake, of_target, x0, sigma, p.weighting), samples.part.share * _distance(of_target, x0)


def _descend_student(samples: Samples, gradient: Tensor) -> Tensor:
    """The student's gradient (DisBack, Eq. 8); returns the part's share of the mean absolute weighted score difference."""
    # The gradient of mean_B sum(g * x0) with g held fixed is g / B at x0: the score difference enters where dx_t / dx0 = 1.
    samples.x0.backward(gradient / samples.part.batch)
    return samples.part.share * gradient.abs().mean().double()


def _shared_steps(state: ScoreRun, target: Denoiser, p: ScoreDistillation, batch: Batch) -> dict[str, Tensor]:
    """Both losses on the same noisy samples: the fake score's forward serves both, seven forwards in all.

    The student then sees the fake score before its update of this iteration, and both losses share the student's noise law: another
    estimator, faster and slightly staler.
    """
    fake, totals = state.modules["fake"].train(p.dropout), _zeros(state)
    for part in state.group.parts(len(batch.z)):
        samples = batch.samples(state.modules["student"], p, part)
        x0, condition = samples.x0.detach(), samples.condition
        noisy, sigma = diffuse(x0, p.noise_student, batch.draw("student").rows(part))
        with batch.draw("fake-dropout").rows(part).masks():
            of_fake = fake(noisy, sigma, condition)
            with torch.no_grad():
                of_target = target(noisy, sigma, condition)
                gradient = score_gradient(of_fake.detach(), of_target, x0, sigma, p.weighting)
            totals["student"] += _descend_student(samples, gradient)
            loss = part.share * denoising_loss(fake, of_fake, x0, sigma)
            loss.backward()
        totals["fake"] += per_value(loss, x0)
        totals["mismatch"] += part.share * _distance(of_target, x0)
    _step(state, "student", p.student, p, batch.step)
    _step(state, "fake", p.fake, p, batch.step)
    return totals


def _zeros(state: ScoreRun) -> dict[str, Tensor]:
    """Where the losses of an update are added up: on the device, so that no pass waits for another's number."""
    return {name: torch.zeros((), dtype=torch.float64, device=state.device) for name in ("fake", "student", "mismatch")}


def _step(state: ScoreRun, name: str, adam: Adam, p: ScoreDistillation, step: int) -> None:
    """One update of a module by the gradients that its passes have left."""
    state.group.add_up(parameter.grad for parameter in state.modules[name].parameters() if parameter.grad is not None)
    if p.nan_to_num:
        state.repaired += _repair(state.modules[name])
    optimiser_step(state.optimisers[name], adam, step)


def _distance(denoised: Tensor, x0: Tensor) -> Tensor:
    return (denoised - x0).flatten(1).norm(dim=1).mean().double()


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
    """Forwards on one batch per update: student 3, target 1, fake score 3 each, and 1 for its value in the student's loss unless shared.

    The target's second one under guidance is not counted, since nodes and teacher have weights of their own.
    """
    return 7 if p.shared_noise else 3 + 1 + 3 * p.fake_per_student + 1


def _average_student(state: ScoreRun, p: ScoreDistillation, step: int) -> None:
    """The average that is evaluated; without one, the student's weights themselves."""
    student = state.modules["student"]
    if p.average is None:
        state.averages["student"] = weights(student)
    else:
        update_average(state.averages["student"], student, p.average, step, p.batch)


def _repair(module: NetDenoiser) -> int:
    """The released code's silent repair of gradients, as an option whose use is counted: returns how many values were replaced."""
    replaced = 0
    for parameter in module.parameters():
        if parameter.grad is not None and (bad := int((~torch.isfinite(parameter.grad)).sum())):
            replaced += bad
            torch.nan_to_num_(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5)
    return replaced
