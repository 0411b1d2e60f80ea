"""What a trajectory student is taught: pieces of the teacher's solver's path, from the cache or computed when they are needed.

Batch b of the pool is a function of (the pool's seed, num_steps, b) alone and is always computed as one batch, so the cached bytes and
those on the fly are equal to the bit. The cache pays where a batch is used more than once: by several seeds, or by rounds > pool.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backtrail.conditions import Condition
from backtrail.data.dataset import Labelled, to_float
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.randomness import Draw, Part
from backtrail.sampling.schedules import schedule
from backtrail.sampling.solvers import EVALUATIONS_PER_STEP, SOLVERS, AnalyticalFirstStep
from backtrail.tensors import load_tensors, save_tensors

POOL_SEED = 0
RECIPE = {"inputs", "num_steps", "substeps", "solver", "schedule", "afs", "teacher_afs", "batch", "pool"}  # what a pool's bytes depend on


@dataclass(frozen=True)
class Piece:
    """Teacher states [k + 1, B, C, H, W] at the student's times first, first + 1, ..., first + k; states[0] is where the student starts.

    condition: what the teacher was told, or None.
    """

    num_steps: int
    first: int
    states: Tensor
    condition: Condition | None = None

    def of(self, rows: slice) -> "Piece":
        """Some of its samples."""
        return Piece(self.num_steps, self.first, self.states[:, rows], None if self.condition is None else self.condition.rows(rows))


def student_times(p: TrajectoryDistillation, num_steps: int) -> Tensor:
    """The student's time stamps, descending, float64 [num_steps]."""
    s = p.schedule
    return schedule(s.kind, num_steps, s.t_min, s.t_max, s.rho, s.betas)


def teacher_times(p: TrajectoryDistillation, num_steps: int) -> Tensor:
    """The same schedule with K - 1 stamps more between each two of the student's: float64 [K (num_steps - 1) + 1]."""
    return student_times(p, p.substeps * (num_steps - 1) + 1)


@torch.no_grad()
def trajectory_from_noise(teacher: NetDenoiser, p: TrajectoryDistillation, num_steps: int, draw: Draw) -> Piece:
    """SFD's target (Algorithm 2): one run of the teacher's solver from x_N ~ N(0, t_N^2 I), read at every K-th state.

    In the second stage the teacher is a few-step student: it may take its first step analytically, and is told its own time stamps.
    """
    times, condition = teacher_times(p, num_steps), condition_from_noise(teacher, p, num_steps, draw)
    noise = draw.of(f"{num_steps}").normal((p.batch, *teacher.image_shape))
    start = (teacher.start_scale(times[0].item()) * noise.double()).float().to(teacher.device)
    denoiser = AnalyticalFirstStep(teacher) if p.teacher_afs else teacher
    states = [start, *SOLVERS[p.solver](denoiser, start, times, told_steps(teacher, condition, len(times), len(start)))]
    return Piece(num_steps, 0, torch.stack(states[:: p.substeps]), condition)


def condition_from_noise(teacher: NetDenoiser, p: TrajectoryDistillation, num_steps: int, draw: Draw) -> Condition | None:
    """What the teacher is told in such a run."""
    return teacher.draw_condition(draw.of(f"label-{num_steps}"), p.batch)


def told_steps(denoiser: NetDenoiser, condition: Condition | None, num_steps: int, n: int) -> Condition | None:
    """The condition of n images, with the number of time stamps where the denoiser is told it."""
    if not denoiser.step_condition:
        return condition
    return replace(condition or Condition(), steps=torch.full((n,), float(num_steps), device=denoiser.device))


@torch.no_grad()
def step_from_data(teacher: NetDenoiser, p: TrajectoryDistillation, data: Labelled, num_steps: int, draw: Draw) -> Piece:
    """Algorithm 1's target: x_{n+1} ~ N(x_0, t_{n+1}^2 I) around data, then K steps of the teacher's solver to t_n.

    data: the training images, uint8, or latents, float; with labels for a conditional teacher. With AFS the first step is not learned, so
    it is not drawn.
    """
    first = p.afs + draw.of(f"step-{num_steps}").integer(num_steps - 1 - p.afs)
    chosen = chosen_rows(p, data, num_steps, draw)
    times = teacher_times(p, num_steps)[first * p.substeps : (first + 1) * p.substeps + 1]
    noise = draw.of(f"noise-{num_steps}").normal((p.batch, *data.images.shape[1:]))
    images = data.images[chosen]
    clean = images if images.is_floating_point() else to_float(images)
    start = (clean.double() + times[0] * noise.double()).float().to(teacher.device)
    condition = condition_of_rows(teacher, data, chosen)
    *_, end = SOLVERS[p.solver](teacher, start, times, condition)
    return Piece(num_steps, first, torch.stack([start, end]), condition)


def chosen_rows(p: TrajectoryDistillation, data: Labelled, num_steps: int, draw: Draw) -> Tensor:
    """The images that a batch is made of, int64 [B]."""
    return draw.of(f"rows-{num_steps}").integers(len(data.images), p.batch)


def condition_of_rows(teacher: NetDenoiser, data: Labelled, chosen: Tensor) -> Condition | None:
    """What the teacher is told of those images."""
    return teacher.condition_of_data(None if data.labels is None else data.labels[chosen])


def teacher_evaluations(p: TrajectoryDistillation, num_steps: int) -> int:
    """The teacher's forwards per batch of the pool."""
    from_noise = p.substeps * (num_steps - 1)
    steps = from_noise if p.inputs == "trajectory" else p.substeps
    return steps * EVALUATIONS_PER_STEP[p.solver] - p.teacher_afs


@dataclass(frozen=True)
class Pool:
    """Batches of pieces: read from a cache, or computed by the teacher at each request.

    data: the training images, uint8, with labels where the teacher is conditional; only inputs = data read them. teacher_cost: what the
    teacher has cost where it is a student itself, in forwards of the net on a batch.
    """

    teacher: NetDenoiser
    p: TrajectoryDistillation
    data: Labelled | None = None
    cache: dict[str, Tensor] | None = None
    teacher_cost: int = 0

    def __post_init__(self) -> None:
        self.teacher.check_schedule(self.p.schedule)

    def piece(self, num_steps: int, batch: int, part: Part | None = None) -> Piece:
        """Batch `batch` (0 ... pool - 1) for `num_steps`, or of several processes this one's part of it.

        Raises ValueError if inputs = data and there are none.
        """
        if self.cache is not None:
            key, rows = f"{num_steps}/{batch:05d}", part.rows if part else slice(None)
            condition = self._told(num_steps, batch)
            return Piece(num_steps, int(self.cache[f"{key}/first"]), self.cache[f"{key}/states"], condition).of(rows)
        draw = self._draw(batch, part)
        if self.p.inputs == "trajectory":
            return trajectory_from_noise(self.teacher, self.p, num_steps, draw)
        return step_from_data(self.teacher, self.p, self._data(), num_steps, draw)

    def _draw(self, batch: int, part: Part | None = None) -> Draw:
        return Draw(POOL_SEED, "trajectory" if self.p.inputs == "trajectory" else "data", batch, part)

    def _data(self) -> Labelled:
        if self.data is None:
            raise ValueError("inputs = data needs the training images")
        return self.data

    def _told(self, num_steps: int, batch: int) -> Condition | None:
        """What the teacher was told in a batch of the cache: its labels lie there, captions are drawn again, for they take more room than
        the states do."""
        assert self.cache is not None
        if (labels := self.cache.get(f"{num_steps}/{batch:05d}/labels")) is not None:
            return Condition(labels=labels)
        if self.teacher.conditions.null is None:
            return None
        draw = self._draw(batch)
        if self.p.inputs == "trajectory":
            return condition_from_noise(self.teacher, self.p, num_steps, draw)
        return condition_of_rows(self.teacher, self._data(), chosen_rows(self.p, self._data(), num_steps, draw))

    def save(self, path: str | Path, metadata: dict[str, Any]) -> None:
        """Compute the whole pool and write it; with `cached` off, a file that says that nothing is cached."""
        tensors: dict[str, Tensor] = {}
        if self.p.cached:
            for num_steps in self.p.num_steps:
                for batch in range(self.p.pool):
                    piece, key = self.piece(num_steps, batch), f"{num_steps}/{batch:05d}"
                    tensors |= {f"{key}/first": torch.tensor(piece.first), f"{key}/states": piece.states}
                    if piece.condition is not None and piece.condition.labels is not None:
                        tensors[f"{key}/labels"] = piece.condition.labels
        save_tensors(path, tensors or {"nothing": torch.zeros(0)}, {"cached": self.p.cached, "recipe": recipe(self.p), **metadata})


def recipe(p: TrajectoryDistillation) -> dict[str, Any]:
    """The parameters that decide a pool, JSON-able."""
    return p.model_dump(mode="json", include=RECIPE)


def load_pool(path: str | Path, teacher: NetDenoiser, p: TrajectoryDistillation, data: Labelled | None = None) -> Pool:
    """The pool that the stage `trajectories` wrote. Raises UserError if it was made for another pool."""
    tensors, metadata = load_tensors(path)
    if not metadata.get("cached"):
        return Pool(teacher, p, data)
    if (made_for := metadata.get("recipe")) != recipe(p):
        differing = sorted(key for key in RECIPE if (made_for or {}).get(key) != recipe(p)[key])
        raise UserError(f"{path} was made with another {', '.join(differing)}: run the stage `trajectories` again")
    wanted = {f"{n}/{b:05d}/{part}" for n in p.num_steps for b in range(p.pool) for part in ("first", "states")}
    if missing := wanted - set(tensors):
        raise UserError(f"{path} lacks {len(missing)} of {len(wanted)} entries (first: {min(missing)}): run the stage `trajectories` again")
    return Pool(teacher, p, data, tensors)
