"""Degradation recording (DisBack, Algorithm 1): fit the teacher to the initial student's samples and keep nodes on the way.

The nodes s'_0 = teacher, s'_1, ..., s'_N walk from the data's score to the score of the untrained student; read backwards they are the
convergence trajectory that the student follows.
"""

import copy
import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from backtrail.conditions import Condition
from backtrail.data.dataset import Labelled
from backtrail.denoiser import NetDenoiser
from backtrail.methods.disback.one_step import generate, initial_student, student_input
from backtrail.methods.disback.path import DegradationPath, Origin
from backtrail.nets.lora import to_train
from backtrail.parameters.score_distillation import PathParameters, Recording, ScoreDistillation
from backtrail.randomness import Draw
from backtrail.training.loop import HERE, Execution, Losses, run
from backtrail.training.noise import denoising_loss, diffuse, per_value, score_matching_loss
from backtrail.training.state import TrainingState, adam, optimiser_step, snapshot

DEFAULT_EVALUATION_BATCH = 256  # images that the loss of a path of one node is measured on


def record(
    origin: Origin, p: PathParameters, data: Labelled, seed: int, execution: Execution = HERE
) -> tuple[DegradationPath, dict[str, Any]]:
    """The path for the student that `p` starts from, and how the recording ended: {stopped_by, steps}.

    data: images in the model's range, float32 (with labels for a conditional teacher), on which the path's loss on data is measured.
    The path's table has a row {step, loss_student, loss_data} for each node, teacher first.
    """
    teacher = origin.teacher
    teacher.check_noise(p.noise_fake)
    lora = p.recording.lora if p.recording else None
    student = initial_student(teacher, p.student_start, seed, origin.start, lora).eval().requires_grad_(False)
    measure = PathLoss(student, p, data, seed)
    if p.recording is None:
        rows = pd.DataFrame([{"step": 0, **measure(teacher)}])
        return DegradationPath([teacher], rows, origin.start, origin.start_cost), {"stopped_by": "path of one node", "steps": 0}
    node = to_train(teacher, lora, seed, "node").eval().requires_grad_(True)
    state = TrainingState({"node": node}, {"node": adam(node, p.recording.optimiser)}, group=execution.group)
    stopped_by = "budget"
    for step, _ in run(state, lambda step: update_node(state, student, p, seed, step), p.recording.steps, execution.scratch):
        if step % p.recording.candidates == 0 or step == p.recording.steps:
            state.rows.append({"step": step, **measure(node)})
            state.snapshots[f"{step:09d}"] = snapshot(node)
            if converged(state.rows, p.recording.tolerance) and len(state.rows) > p.recording.nodes:
                stopped_by = "convergence"
                break
    chosen = choose_nodes(state.rows, p.recording)
    nodes = [teacher, *(_with_weights(node, state.snapshots[f"{row['step']:09d}"]) for row in chosen)]
    path = DegradationPath(nodes, pd.DataFrame([state.rows[0], *chosen]), origin.start, origin.start_cost)
    return path, {"stopped_by": stopped_by, "steps": state.rows[-1]["step"]}


class PathLoss:
    """The denoising loss of a denoiser, per value of an image, on the initial student's samples and on data, with fixed noise."""

    def __init__(self, student: NetDenoiser, p: PathParameters, data: Labelled, seed: int):
        n, draw = p.recording.evaluation_batch if p.recording else DEFAULT_EVALUATION_BATCH, Draw(seed, "path-loss")
        condition = student.draw_condition(draw.of("label"), n)
        with torch.no_grad():
            x0 = generate(student, student_input(student, n, p.sigma_init, draw.of("z")), p.sigma_init, condition)
        images = data.images[:n].to(student.device)
        of_data = student.condition_of_data(None if data.labels is None else data.labels[:n])
        self.sets: dict[str, tuple[Tensor, Tensor, Tensor, Condition | None]] = {
            "loss_student": (x0, *diffuse(x0, p.noise_fake, draw), condition),
            "loss_data": (images, *diffuse(images, p.noise_fake, draw), of_data),
        }

    @torch.no_grad()
    def __call__(self, denoiser: NetDenoiser) -> Losses:
        return {
            name: per_value(denoising_loss(denoiser, denoiser(noisy, sigma, condition), x0, sigma), x0).item()
            for name, (x0, noisy, sigma, condition) in self.sets.items()
        }


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


def update_node(state: TrainingState, student: NetDenoiser, p: PathParameters, seed: int, step: int) -> Losses:
    """One update of the degraded score (DisBack, Eq. 7): the student is frozen. The loss returned is per value of an image."""
    assert p.recording is not None
    node, draw = state.modules["node"], Draw(seed, "recording", step)
    total = torch.zeros((), dtype=torch.float64, device=node.device)
    for part in state.group.parts(p.batch):
        loss = part.share * fitting_loss(node, student, p, draw.rows(part))
        loss.backward()
        total += loss.detach() / math.prod(student.image_shape)
    optimiser_step(state.optimisers["node"], p.recording.optimiser, step, group=state.group)
    return state.group.totals({"loss": total})


def fitting_loss(model: NetDenoiser, student: NetDenoiser, p: PathParameters, draw: Draw) -> Tensor:
    """The loss of `model` on fresh samples of a frozen student, on the rows of the draw's part."""
    condition = student.draw_condition(draw.of("label"), p.batch)
    with torch.no_grad():
        x0 = generate(student, student_input(student, p.batch, p.sigma_init, draw.of("z")), p.sigma_init, condition)
    return score_matching_loss(model, x0, p.noise_fake, draw, condition)


def _with_weights(like: NetDenoiser, values: dict[str, Tensor]) -> NetDenoiser:
    node = copy.deepcopy(like)
    node.load_state_dict(values, strict=True)
    return node.eval().requires_grad_(False)


def fit_to_student(fake: NetDenoiser, student: NetDenoiser, p: ScoreDistillation, seed: int, steps: int) -> NetDenoiser:
    """The score of the student as it is now: its fake score fitted further to its samples, frozen.

    The learning rate falls linearly to zero, so that what is left is the fit and not the last batches.
    """
    model = copy.deepcopy(fake).eval().requires_grad_(True)
    optimiser = adam(model, p.fake)
    for step in range(steps):
        fitting_loss(model, student, p, Draw(seed, "fit", step)).backward()
        optimiser_step(optimiser, p.fake, step, factor=1 - step / steps)
    return model.requires_grad_(False)
