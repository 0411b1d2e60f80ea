"""Degradation recording (DisBack, Algorithm 1): fit the teacher to the initial student's samples and keep nodes on the way.

The nodes s'_0 = teacher, s'_1, ..., s'_N walk from the data's score to the score of the untrained student; read backwards they are the
convergence trajectory that the student follows.
"""

import copy
import math

import numpy as np
import torch
from torch import Tensor

from backtrail.denoiser import NetDenoiser
from backtrail.methods.disback.one_step import (
    diffuse,
    draw_labels,
    generate,
    given,
    initial_student,
    rows_of,
    score_matching_loss,
    student_input,
)
from backtrail.parameters.score_distillation import Recording, ScoreDistillation
from backtrail.parameters.training import NoiseLaw
from backtrail.training.group import ALONE, Group
from backtrail.training.loop import Losses, run
from backtrail.training.noise import edm_loss
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState, adam, optimiser_step, snapshot


def record(
    teacher: NetDenoiser,
    p: ScoreDistillation,
    shape: tuple[int, ...],
    data: Tensor,
    seed: int,
    scratch: Scratch | None = None,
    start: NetDenoiser | None = None,
    data_labels: Tensor | None = None,
    group: Group = ALONE,
) -> tuple[list[NetDenoiser], list[dict], dict]:
    """The path for the student that `p` starts from.

    shape is one image's [C, H, W]; data [N, C, H, W] in the model's range (with labels [N] for a conditional teacher) is what the path's
    loss on data is measured on. `start` is the initial student where it is neither the teacher nor random.
    Returns the nodes (teacher first), a row {step, loss_student, loss_data} for each, and {stopped_by, steps}.
    """
    student = initial_student(teacher, p.student_start, seed, start).eval().requires_grad_(False)
    measure = PathLoss(student, p, shape, data, seed, data_labels)
    if p.recording is None:
        return [teacher], [{"step": 0, **measure(teacher)}], {"stopped_by": "path of one node", "steps": 0}
    node = copy.deepcopy(teacher).eval().requires_grad_(True)
    state = TrainingState({"node": node}, {"node": adam(node, p.recording.optimiser)}, group=group)
    stopped_by = "budget"
    for step, _ in run(state, lambda step: _update(state, student, p, shape, seed, step), p.recording.steps, scratch):
        if step % p.recording.candidates == 0 or step == p.recording.steps:
            state.rows.append({"step": step, **measure(node)})
            state.snapshots[f"{step:09d}"] = snapshot(node)
            if converged(state.rows, p.recording.tolerance) and len(state.rows) > p.recording.nodes:
                stopped_by = "convergence"
                break
    chosen = choose_nodes(state.rows, p.recording)
    nodes = [teacher, *(_with_weights(teacher, state.snapshots[f"{row['step']:09d}"]) for row in chosen)]
    return nodes, [state.rows[0], *chosen], {"stopped_by": stopped_by, "steps": state.rows[-1]["step"]}


class PathLoss:
    """The EDM loss of a denoiser on the initial student's samples and on data, with fixed samples, noise and noise levels."""

    def __init__(
        self, student: NetDenoiser, p: ScoreDistillation, shape: tuple[int, ...], data: Tensor, seed: int, data_labels: Tensor | None = None
    ):
        n = p.recording.evaluation_batch if p.recording else 256
        labels = draw_labels(student.n_classes, n, seed, "path-loss-label", 0, student.device)
        if labels is not None and data_labels is None:
            raise ValueError("the loss of a conditional denoiser on data needs the data's labels")
        with torch.no_grad():
            z = student_input((n, *shape), p.sigma_init, seed, "path-loss-z", 0, student.device)
            x0 = generate(student, z, p.sigma_init, labels)
        of_data = given(data_labels[:n].to(student.device)) if labels is not None and data_labels is not None else None
        self.sets = {
            "loss_student": (*self._diffused(x0, p.noise_fake, seed), given(labels)),
            "loss_data": (*self._diffused(data[:n].to(student.device), p.noise_fake, seed), of_data),
        }

    @torch.no_grad()
    def __call__(self, denoiser: NetDenoiser) -> Losses:
        return {
            name: edm_loss(denoiser(noisy, sigma, condition), x0, sigma, denoiser.sigma_data).item()
            for name, (x0, noisy, sigma, condition) in self.sets.items()
        }

    @staticmethod
    def _diffused(x0: Tensor, law: NoiseLaw, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        return (x0, *diffuse(x0, law, seed, "path-loss", 0))


def converged(rows: list[dict], tolerance: float | None) -> bool:
    """Whether the path's loss on the student's samples fell by less than `tolerance` (a share) over the last quarter of the updates."""
    if tolerance is None or len(rows) < 5:
        return False
    earlier = rows[-1 - max(1, len(rows) // 4)]["loss_student"]
    return earlier - rows[-1]["loss_student"] < tolerance * earlier


def choose_nodes(rows: list[dict], p: Recording) -> list[dict]:
    """The rows at which nodes are kept; `rows` starts with the teacher (step 0) and the last row is always a node.

    every: equal steps of updates. log: equal steps of ln updates. loss: equal steps of the running minimum of the path's loss. A recording
    saturates early, so equal updates put most of the change before the first node, and the student then idles along equal nodes.
    """
    steps = np.array([row["step"] for row in rows], dtype=float)
    if p.spacing == "every":
        place = steps / steps[-1]
    elif p.spacing == "log":
        place = np.log1p(steps) / math.log1p(steps[-1])
    else:
        fallen = rows[0]["loss_student"] - np.minimum.accumulate([row["loss_student"] for row in rows])
        place = fallen / fallen[-1] if fallen[-1] > 0 else steps / steps[-1]
    chosen: list[int] = []
    for k in range(1, p.nodes + 1):
        # The nearest free place that leaves room for the nodes still to come.
        allowed = np.arange(chosen[-1] + 1 if chosen else 1, len(rows) - (p.nodes - k))
        chosen.append(int(allowed[-1] if k == p.nodes else allowed[np.abs(place[allowed] - k / p.nodes).argmin()]))
    return [rows[i] for i in chosen]


def _update(state: TrainingState, student: NetDenoiser, p: ScoreDistillation, shape: tuple[int, ...], seed: int, step: int) -> Losses:
    """One update of the degraded score (DisBack, Eq. 7): the student is frozen."""
    assert p.recording is not None
    node: NetDenoiser = state.modules["node"]  # type: ignore[assignment]
    labels = draw_labels(node.n_classes, p.batch, seed, "recording-label", step, node.device)
    z = student_input((p.batch, *shape), p.sigma_init, seed, "recording-z", step, node.device)
    total = 0.0
    for part in state.group.parts(p.batch):
        own = rows_of(labels, part)
        with torch.no_grad():
            x0 = generate(student, z[part.rows], p.sigma_init, own)
        loss = part.share * score_matching_loss(node, x0, p.noise_fake, own, seed, "recording", step, part)
        loss.backward()
        total += loss.item()
    optimiser_step(state.optimisers["node"], p.recording.optimiser, step, group=state.group)
    return {"loss": state.group.total(total, node.device)}


def _with_weights(like: NetDenoiser, values: dict[str, Tensor]) -> NetDenoiser:
    node = copy.deepcopy(like)
    node.load_state_dict(values, strict=True)
    return node.eval().requires_grad_(False)


def fit_to_student(
    start: NetDenoiser, student: NetDenoiser, p: ScoreDistillation, shape: tuple[int, ...], seed: int, steps: int
) -> NetDenoiser:
    """The score of the student as it is now: `start` (its fake score, say) fitted further to its samples, frozen.

    The learning rate falls linearly to zero, so that what is left is the fit and not the last batches.
    """
    model = copy.deepcopy(start).eval().requires_grad_(True)
    optimiser = adam(model, p.fake)
    for step in range(steps):
        labels = draw_labels(model.n_classes, p.batch, seed, "fit-label", step, model.device)
        z = student_input((p.batch, *shape), p.sigma_init, seed, "fit-z", step, model.device)
        with torch.no_grad():
            x0 = generate(student, z, p.sigma_init, labels)
        score_matching_loss(model, x0, p.noise_fake, labels, seed, "fit", step).backward()
        optimiser_step(optimiser, p.fake, step, factor=1 - step / steps)
    return model.requires_grad_(False)
