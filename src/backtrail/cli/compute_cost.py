"""How much a suite computes, counted before it runs: forwards of the network per stage, from the parameters alone."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from backtrail.denoiser import NetDenoiser
from backtrail.layout import PARAMS_FILE
from backtrail.methods.disback import family as disback
from backtrail.methods.sfd import family as sfd
from backtrail.nets.build import BuiltIn, construct_empty
from backtrail.nets.inception import RESIZE, Inception
from backtrail.parameters.base_suite import BaseSuite
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.suite import Suite
from backtrail.parameters.teacher import Teacher
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.sampling.student import OneStep, StudentSampling
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
    teacher_sets = [s.nfe(n) for s in ways for n in s.num_steps]
    yield Work(["teacher-samples"], m.n_drawn * sum(teacher_sets))
    for method, p in suite.score_distillation.items():
        yield from _score(suite, method, p)
    for method, p in suite.few_step.items():
        yield from _trajectory(suite, method, p)
    if readers := n_readers(suite):
        n_reference = m.n_pairwise if len(m.inception.published) == readers else m.n_reference  # published ones need no images
        floors = 8 * (m.n_floor or m.n_samples) + m.n_curve  # the floor itself, and seven kinds of real images for the ranking
        yield Work([f"reference@{name}" for name in m.extractors if name.startswith("inception")], 0, n_reference + floors)
        yield Work(["teacher-metrics"], 0, readers * m.n_drawn * len(teacher_sets))


def _score(suite: Suite, method: str, p: ScoreDistillation) -> Iterator[Work]:
    start = suite.start_of(method)
    yield Work(job_names(suite, f"path-from-{start}" if start else "path", method), disback.path_forwards(p))
    yield Work(job_names(suite, "score-distillation", method), disback.training_forwards(p, suite.metrics.n_curve))
    yield Work(job_names(suite, "mismatch", method), disback.mismatch_forwards(p, suite.mismatch))
    yield from _sampled(suite, method, OneStep(sigma_init=1.0))  # at whatever level


def _trajectory(suite: Suite, method: str, p: TrajectoryDistillation) -> Iterator[Work]:
    second = suite.start_of(method) is not None
    if not second:
        yield Work([f"trajectories@{method}"], sfd.pool_forwards(p))
    stage = "second-stage-distillation" if second else "trajectory-distillation"
    yield Work(job_names(suite, stage, method), sfd.training_forwards(p, suite.metrics.n_curve))
    yield from _sampled(suite, method, sfd.sampling(p))


def _sampled(suite: Suite, method: str, sampling: StudentSampling) -> Iterator[Work]:
    n_images, asked = suite.metrics.n_drawn, suite.students[method]
    ways = sampling.samplers(asked.num_steps, asked.guidance)
    yield Work(job_names(suite, "samples", method), n_images * sum(way.nfe for way in ways))
    if readers := n_readers(suite):
        yield Work(job_names(suite, "metrics", method), 0, readers * n_images * len(ways))


def n_readers(suite: Suite) -> int:
    """How often Inception reads each image: once for each of its extractors."""
    return sum(name.startswith("inception") for name in suite.metrics.extractors)


def job_names(suite: BaseSuite, stage: str, method: str) -> list[str]:
    """DVC's names of a method's jobs, one for each seed."""
    return [f"{stage}@{method}-{seed}" for seed in suite.seeds]


def network(suite: Suite) -> NetDenoiser | None:
    """The suite's network without weights; None for an imported one whose shape is known only when it has been fetched."""
    if isinstance(suite.teacher, Teacher):
        return construct_empty(BuiltIn(sigma_data=0.5, net=suite.teacher.net), PARAMS_FILE)
    published = PUBLISHED.get(suite.teacher.source.removeprefix("teacher-"))
    return construct_empty(published, "the published network") if published else None


def forward_gflop(denoiser: NetDenoiser) -> float:
    """Floating-point operations (a multiplication and an addition are two) of a forward on one image, in 10^9.

    Counted without memory for weights, where nothing is computed and no convolution has a way that needs fewer.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        copy.deepcopy(denoiser).to("meta").eval()(torch.zeros(1, *denoiser.image_shape), torch.ones(1))
    return counter.get_total_flops() / 1e9


def inception_gflop() -> float:
    """The same for Inception's features of one image."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        Inception().eval().pooled(torch.zeros(1, 3, RESIZE, RESIZE))
    return counter.get_total_flops() / 1e9
