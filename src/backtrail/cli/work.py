"""How much a suite computes, counted before it runs: forwards of the network per stage, from the parameters alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from backtrail.denoiser import NetDenoiser
from backtrail.methods.disback.distillation import update_cost
from backtrail.methods.sfd.trajectories import sampled_facts, teacher_evaluations
from backtrail.nets.build import BuiltIn, construct_empty
from backtrail.nets.inception import RESIZE, Inception
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.suite import Suite
from backtrail.parameters.teacher import Teacher
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.sampling.sample import Sampler
from backtrail.sampling.student import samplers
from backtrail.teachers.published import PUBLISHED


@dataclass(frozen=True)
class Work:
    """Jobs of one kind: `forwards` of the network and `features` (images read by Inception) in each of them.

    A forward and its backward count as three forwards. names: DVC's names of the jobs.
    """

    names: list[str]
    forwards: float
    features: float = 0


def count(suite: Suite) -> Iterator[Work]:
    """The work of every stage that computes with the network or with Inception, in the pipeline's order."""
    m = suite.metrics
    if isinstance(suite.teacher, Teacher):
        yield Work(["teacher"], 3 * suite.teacher.steps * suite.teacher.batch)
    ways = suite.teacher_samples.samplers.values()
    teacher_sets = [Sampler(s.solver, n, s.schedule, s.afs, guidance=s.guidance).nfe for s in ways for n in s.num_steps]
    yield Work(["teacher-samples"], m.n_drawn * sum(teacher_sets))
    for method, p in suite.score_distillation.items():
        yield from _score(suite, method, p)
    for method, p in suite.few_step.items():
        yield from _trajectory(suite, method, p)
    if readers := n_readers(suite):
        n_reference = m.n_pairwise if m.inception and m.inception.reference else m.n_reference
        floors = 8 * (m.n_floor or m.n_samples) + m.n_curve  # the floor itself, and seven kinds of real images for the ranking
        yield Work([f"reference@{name}" for name in m.extractors if name.startswith("inception")], 0, n_reference + floors)
        yield Work(["teacher-metrics"], 0, readers * m.n_drawn * len(teacher_sets))


def _score(suite: Suite, method: str, p: ScoreDistillation) -> Iterator[Work]:
    m, mismatch, start = suite.metrics, suite.mismatch, suite.start_of(method)
    recording = p.recording
    recorded = recording.steps * 4 * p.batch if recording else 0
    looks = recording.steps // recording.candidates + 1 if recording else 1
    looked_at = looks * 2 * (recording.evaluation_batch if recording else 256)
    yield Work(_names(suite, f"path-from-{start}" if start else "path", method), recorded + looked_at)
    kept = {*p.snapshots, p.updates}
    evaluations = len({*range(0, p.updates + 1, p.evaluate_every), *kept})
    yield Work(_names(suite, "score-distillation", method), update_cost(p) * p.updates * p.batch + evaluations * m.n_curve)
    fit, read = 4 * mismatch.fit_steps * p.batch, mismatch.n_samples * (1 + 2 * len(mismatch.sigmas))
    yield Work(_names(suite, "mismatch", method), len(kept) * (fit + read))
    yield from _sampled(suite, method, [Sampler(sigma_init=p.sigma_init)])


def _trajectory(suite: Suite, method: str, p: TrajectoryDistillation) -> Iterator[Work]:
    first = suite.start_of(method) is None
    n_kinds = len(p.num_steps)
    taught = sum(teacher_evaluations(p, n) for n in p.num_steps)
    if first:
        yield Work([f"trajectories@{method}"], p.pool * p.batch * taught if p.cached else 0)
    # A round on the student's own walk updates at each of its evaluations, one on data at a single one.
    trained = 3 * (sum(n - 1 - p.afs for n in p.num_steps) / n_kinds if p.inputs == "trajectory" else 1)
    per_round = trained + (0 if p.cached else taught / n_kinds)
    ways = samplers(sampled_facts(p), suite.students[method])[0]
    evaluations = len({*range(0, p.rounds + 1, p.evaluate_every), p.rounds})
    forwards = p.rounds * p.batch * per_round + evaluations * suite.metrics.n_curve * ways[0].nfe
    yield Work(_names(suite, "trajectory-distillation" if first else "second-stage-distillation", method), forwards)
    yield from _sampled(suite, method, ways)


def _sampled(suite: Suite, method: str, ways: list[Sampler]) -> Iterator[Work]:
    n_images = suite.metrics.n_drawn
    yield Work(_names(suite, "samples", method), n_images * sum(way.nfe for way in ways))
    if readers := n_readers(suite):
        yield Work(_names(suite, "metrics", method), 0, readers * n_images * len(ways))


def n_readers(suite: Suite) -> int:
    """How often Inception reads each image: once for each of its extractors."""
    return sum(name.startswith("inception") for name in suite.metrics.extractors)


def _names(suite: Suite, stage: str, method: str) -> list[str]:
    return [f"{stage}@{method}-{seed}" for seed in suite.seeds]


def network(suite: Suite) -> NetDenoiser | None:
    """The suite's network without weights; None for an imported one whose shape is known only when it has been fetched."""
    if isinstance(suite.teacher, Teacher):
        return construct_empty(BuiltIn(sigma_data=0.5, net=suite.teacher.net))
    published = PUBLISHED.get(suite.teacher.source.removeprefix("teacher-"))
    return construct_empty(published) if published else None


def forward_gflop(denoiser: NetDenoiser) -> float:
    """Floating-point operations (a multiplication and an addition are two) of a forward on one image, in 10^9; nothing is computed."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        denoiser.eval()(torch.zeros(1, *denoiser.image_shape), torch.ones(1))
    return counter.get_total_flops() / 1e9


def inception_gflop() -> float:
    """The same for Inception's features of one image."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        Inception().eval().pooled(torch.zeros(1, 3, RESIZE, RESIZE))
    return counter.get_total_flops() / 1e9
