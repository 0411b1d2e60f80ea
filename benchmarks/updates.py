"""One update of each method as the package makes it, on made-up images: how it is called, and what it is worth in forwards of the net."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pandas as pd
import plain
import torch
from torch import Tensor

from backtrail.data.dataset import Dataset, Labelled
from backtrail.denoiser import Condition, NetDenoiser
from backtrail.methods.disback import distillation as score_distillation
from backtrail.methods.disback import recording as degradation
from backtrail.methods.disback.path import DegradationPath
from backtrail.methods.sfd.distillation import TrajectoryRun, distil_round, plan
from backtrail.methods.sfd.trajectories import Pool, teacher_evaluations
from backtrail.nets.build import build, with_step_condition
from backtrail.parameters.net import UNetParameters
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.teacher import Teacher
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.teachers.train import teacher_state, teacher_update
from backtrail.training.state import TrainingState, adam

Update = Callable[[int], object]
SEED, SIGMA_DATA, N_IMAGES = 0, 0.5, 1024


@dataclass(frozen=True)
class Case:
    """A method's update: `update(step)` makes one (a round, in trajectory distillation), worth `ideal(step)` forwards of the net.

    nets: the denoisers by the part that their time is booked on. forward: the yardstick, one forward of the net that is trained, on a
    batch of the same size. plain: builds the plain loop of the same work; not called before the package's own memory is read off.
    """

    batch: int
    update: Update
    ideal: Callable[[int], int]
    forward: Callable[[], object]
    nets: dict[str, NetDenoiser]
    state: TrainingState
    plain: Callable[[], Update]


@dataclass(frozen=True)
class Setup:
    """Where and on what the methods are measured: a suite's parameters, with `net` and `batch` (images) in place of theirs."""

    teacher: Teacher
    score: dict[str, ScoreDistillation]
    trajectory: dict[str, TrajectoryDistillation]
    net: UNetParameters
    batch: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    place: Callable[[NetDenoiser], NetDenoiser] = lambda denoiser: denoiser

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, H, W] of an image."""
        return (self.net.image_channels, self.net.resolution, self.net.resolution)

    def dataset(self) -> Dataset:
        """Noise as images: no update depends on what they show."""
        draw = torch.Generator().manual_seed(SEED)
        images = torch.randint(256, (N_IMAGES, *self.shape), generator=draw, dtype=torch.uint8)
        labels = torch.randint(max(self.net.n_classes, 1), (N_IMAGES,), generator=draw)
        return Dataset(images, labels, images, labels, self.net.n_classes, SIGMA_DATA, "noise", "")

    def denoiser(self, seed: int = SEED) -> NetDenoiser:
        """A frozen net, with its layers that start at zero moved off it, so that no arithmetic is on zeros."""
        denoiser = build(self.net, SIGMA_DATA, seed)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))
        return self.place(denoiser.to(self.device)).eval().requires_grad_(False)

    def forward(self, denoiser: NetDenoiser) -> Callable[[], Tensor]:
        """One forward of a net on a batch, without a graph."""
        x, sigma = torch.randn(self.batch, *self.shape, device=self.device), torch.ones(self.batch, device=self.device)
        labels = torch.zeros(self.batch, dtype=torch.int64, device=self.device) if self.net.n_classes else None
        steps = torch.full((self.batch,), 4.0, device=self.device) if denoiser.step_condition else None
        return torch.no_grad()(lambda: denoiser(x, sigma, Condition(labels, steps)))


def teacher(s: Setup) -> Case:
    """Denoising score matching: a forward and its backward."""
    p, dataset = s.teacher.model_copy(update={"net": s.net, "batch": s.batch}), s.dataset()
    state = teacher_state(p, SIGMA_DATA, lambda denoiser: s.place(denoiser.to(s.device)))
    net = state.modules["teacher"]
    return Case(
        s.batch, lambda step: teacher_update(state, p, dataset, step), lambda step: 3, s.forward(net), {"student": net}, state,
        lambda: plain.teacher(copy.deepcopy(net), p, dataset),
    )  # fmt: skip


def recording(s: Setup) -> Case:
    """Degradation recording: the frozen student's forward, and the node's with its backward."""
    p = s.score["disback"].model_copy(update={"batch": s.batch})
    assert p.recording is not None
    student, node = s.denoiser(), s.denoiser(1).requires_grad_(True)
    state = TrainingState({"node": node}, {"node": adam(node, p.recording.optimiser)})
    return Case(
        s.batch, lambda step: degradation.update_node(state, student, p, SEED, step), lambda step: 4, s.forward(node),
        {"student": student, "fake score": node}, state, lambda: plain.recording(student, copy.deepcopy(node), p, s.shape),
    )  # fmt: skip


def score(s: Setup, method: str, loop: Callable[..., Update], shared_noise: bool = False) -> Case:
    """Score distillation: student and fake score with their backwards, the target's forward, and the fake score's value unless shared."""
    p = s.score[method].model_copy(update={"batch": s.batch, "shared_noise": shared_noise})
    n_nodes = p.recording.nodes if p.recording else 0
    path = DegradationPath([s.denoiser(node) for node in range(n_nodes + 1)], pd.DataFrame({"step": range(n_nodes + 1)}))
    state, schedule = score_distillation.initial_state(path, p, SEED), score_distillation.TargetSchedule(path, p)
    nets = {"teacher": path.teacher, "student": state.modules["student"], "fake score": state.modules["fake"]}
    nets |= {f"teacher {node}": path.nodes[node] for node in range(1, n_nodes)}
    return Case(
        s.batch, lambda step: score_distillation.update(state, schedule, SEED, step),
        lambda step: score_distillation.update_cost(p), s.forward(state.modules["student"]), nets, state,
        lambda: loop(path.teacher, copy.deepcopy(nets["student"]), copy.deepcopy(nets["fake score"]), p, s.shape),
    )  # fmt: skip


def trajectory(s: Setup, method: str, cached: bool) -> Case:
    """Trajectory distillation, a round: the teacher's trajectory unless it is cached, then a forward and backward per step learned."""
    p = s.trajectory[method].model_copy(update={"batch": s.batch, "pool": 2, "rounds": 1_000_000})
    frozen, dataset = s.denoiser(), s.dataset()
    fresh = Pool(frozen, p, Labelled(dataset.train_images, dataset.train_labels))
    pool = Pool(frozen, p, cache=in_memory(fresh, p)) if cached else fresh
    student = with_step_condition(frozen) if p.step_condition != "none" else copy.deepcopy(frozen)
    student = s.place(student.to(s.device)).eval().requires_grad_(True)
    state = TrajectoryRun({"student": student}, {"student": adam(student, p.optimiser)})

    def ideal(step: int) -> int:
        num_steps, _ = plan(p, SEED, step)
        learned = 1 if p.inputs == "data" else num_steps - 1 - p.afs
        return 3 * learned + (0 if cached else teacher_evaluations(p, num_steps))

    return Case(
        s.batch, lambda step: distil_round(state, pool, SEED, step), ideal, s.forward(student),
        {"teacher": frozen, "student": student}, state, lambda: plain.trajectory(frozen, copy.deepcopy(student), p, dataset),
    )  # fmt: skip


def in_memory(pool: Pool, p: TrajectoryDistillation) -> dict[str, Tensor]:
    """What the stage `trajectories` caches, without its file."""
    pieces = {f"{n}/{b:05d}": pool.piece(n, b) for n in p.num_steps for b in range(p.pool)}
    cache = {f"{key}/states": piece.states.cpu() for key, piece in pieces.items()}
    cache |= {f"{key}/first": torch.tensor(piece.first) for key, piece in pieces.items()}
    told = {key: piece.condition.labels for key, piece in pieces.items() if piece.condition is not None}
    return cache | {f"{key}/labels": labels.cpu() for key, labels in told.items() if labels is not None}


CASES: dict[str, Callable[[Setup], Case]] = {
    "teacher": teacher,
    "recording": recording,
    "diff-instruct": partial(score, method="diff-instruct", loop=plain.diff_instruct),
    "disback": partial(score, method="disback", loop=plain.disback),
    "shared noise": partial(score, method="diff-instruct", loop=plain.diff_instruct, shared_noise=True),
    "trajectory": partial(trajectory, method="trajectory", cached=False),
    "sfd": partial(trajectory, method="sfd", cached=False),
    "sfd, cached": partial(trajectory, method="sfd", cached=True),
    "sfd-v": partial(trajectory, method="sfd-v", cached=False),
    "sfd-v, cached": partial(trajectory, method="sfd-v", cached=True),
}
