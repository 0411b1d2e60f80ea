"""What a trajectory student is taught: pieces of the teacher's solver's path, from the cache or computed when they are needed.

Batch b of the pool is a function of (the pool's seed, num_steps, b) alone and is always computed as one batch, so the cached bytes and
those on the fly are equal to the bit. The cache pays where a batch is used more than once: by several seeds, or by rounds > pool.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backtrail.data.dataset import Labelled, to_float
from backtrail.denoiser import Condition, NetDenoiser
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

    labels: int64 [B], or None for an unconditional teacher.
    """

    num_steps: int
    first: int
    states: Tensor
    labels: Tensor | None = None

    def of(self, rows: slice) -> "Piece":
        """Some of its samples."""
        return Piece(self.num_steps, self.first, self.states[:, rows], None if self.labels is None else self.labels[rows])


def student_times(p: TrajectoryDistillation, num_steps: int) -> Tensor:
    """The student's time stamps, descending, float64 [num_steps]."""
    return schedule(p.schedule.kind, num_steps, p.schedule.t_min, p.schedule.t_max, p.schedule.rho)


def teacher_times(p: TrajectoryDistillation, num_steps: int) -> Tensor:
    """The same schedule with K - 1 stamps more between each two of the student's: float64 [K (num_steps - 1) + 1]."""
    return schedule(p.schedule.kind, p.substeps * (num_steps - 1) + 1, p.schedule.t_min, p.schedule.t_max, p.schedule.rho)


@torch.no_grad()
def trajectory_from_noise(teacher: NetDenoiser, p: TrajectoryDistillation, num_steps: int, draw: Draw) -> Piece:
    """SFD's target (Algorithm 2): one run of the teacher's solver from x_N ~ N(0, t_N^2 I), read at every K-th state.

    In the second stage the teacher is a few-step student: it may take its first step analytically, and is told its own time stamps.
    """
    times, labels = teacher_times(p, num_steps), None
    if teacher.n_classes:
        labels = draw.of(f"label-{num_steps}").integers(teacher.n_classes, p.batch).to(teacher.device)
    noise = draw.of(f"{num_steps}").normal((p.batch, *teacher.image_shape))
    start = (times[0] * noise.double()).float().to(teacher.device)
    told = torch.full((len(start),), float(len(times)), device=teacher.device) if teacher.step_condition else None
    denoiser = AnalyticalFirstStep(teacher) if p.teacher_afs else teacher
    states = [start, *SOLVERS[p.solver](denoiser, start, times, Condition(labels, told))]
    return Piece(num_steps, 0, torch.stack(states[:: p.substeps]), labels)


@torch.no_grad()
def step_from_data(teacher: NetDenoiser, p: TrajectoryDistillation, data: Labelled, num_steps: int, draw: Draw) -> Piece:
    """Algorithm 1's target: x_{n+1} ~ N(x_0, t_{n+1}^2 I) around data, then K steps of the teacher's solver to t_n.

    data: the training images, uint8, with labels for a conditional teacher. With AFS the first step is not learned, so it is not drawn.
    """
    if teacher.n_classes and data.labels is None:
        raise ValueError("a conditional teacher needs the images' labels")
    first = p.afs + draw.of(f"step-{num_steps}").integer(num_steps - 1 - p.afs)
    chosen = draw.of(f"rows-{num_steps}").integers(len(data.images), p.batch)
    times = teacher_times(p, num_steps)[first * p.substeps : (first + 1) * p.substeps + 1]
    noise = draw.of(f"noise-{num_steps}").normal((p.batch, *data.images.shape[1:]))
    start = (to_float(data.images[chosen]).double() + times[0] * noise.double()).float().to(teacher.device)
    labels = data.labels[chosen].to(teacher.device) if teacher.n_classes and data.labels is not None else None
    *_, end = SOLVERS[p.solver](teacher, start, times, Condition(labels))
    return Piece(num_steps, first, torch.stack([start, end]), labels)


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

    def piece(self, num_steps: int, batch: int, part: Part | None = None) -> Piece:
        """Batch `batch` (0 ... pool - 1) for `num_steps`, or of several processes this one's part of it.

        Raises ValueError if inputs = data and there are none.
        """
        if self.cache is not None:
            key, rows = f"{num_steps}/{batch:05d}", part.rows if part else slice(None)
            piece = Piece(num_steps, int(self.cache[f"{key}/first"]), self.cache[f"{key}/states"], self.cache.get(f"{key}/labels"))
            return piece.of(rows)
        if self.p.inputs == "trajectory":
            return trajectory_from_noise(self.teacher, self.p, num_steps, Draw(POOL_SEED, "trajectory", batch, part))
        if self.data is None:
            raise ValueError("inputs = data needs the training images")
        return step_from_data(self.teacher, self.p, self.data, num_steps, Draw(POOL_SEED, "data", batch, part))

    def save(self, path: str | Path, metadata: dict[str, Any]) -> None:
        """Compute the whole pool and write it; with `cached` off, a file that says that nothing is cached."""
        tensors: dict[str, Tensor] = {}
        if self.p.cached:
            for num_steps in self.p.num_steps:
                for batch in range(self.p.pool):
                    piece, key = self.piece(num_steps, batch), f"{num_steps}/{batch:05d}"
                    tensors |= {f"{key}/first": torch.tensor(piece.first), f"{key}/states": piece.states}
                    if piece.labels is not None:
                        tensors[f"{key}/labels"] = piece.labels
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
