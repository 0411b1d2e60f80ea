"""The ring of Gaussians: its law by closed forms, and what holds there of DisBack's claims, with seeds and margins."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch

from backtrail.data.dataset import Labelled
from backtrail.data.ring import SHAPE, Ring
from backtrail.methods.disback.distillation import distil
from backtrail.methods.disback.one_step import generate
from backtrail.methods.disback.path import DegradationPath, Origin
from backtrail.methods.disback.recording import record
from backtrail.metrics.mismatch import mismatch
from backtrail.metrics.wasserstein import sliced_wasserstein
from backtrail.parameters.suite import read_suite
from backtrail.randomness import Draw
from backtrail.teachers.ring import ring_teacher
from backtrail.training.state import TrainingState
from unit.oracles import MixtureDenoiser

SUITE = read_suite(Path(__file__).parents[2] / "suites/ring/params.yaml")
RING = Ring(**SUITE.ring.model_dump())
SNAPSHOTS = (0, 10, 20, 30, 40, 50, 75, 100, 150, 200)


def test_points_have_the_moments_of_the_law():
    points = RING.points(100_000, 0, "test").double().flatten(1)
    assert points.mean(0).tolist() == pytest.approx([0, 0], abs=0.006)
    assert points.std(0).tolist() == pytest.approx([RING.sigma_data] * 2, abs=0.003)
    assert RING.sigma_data == pytest.approx(math.sqrt(0.49 / 2 + 0.0025))
    nearest = torch.cdist(points, RING.centres).min(1)
    assert nearest.values.square().mean().sqrt().item() == pytest.approx(0.05 * 2**0.5, rel=0.01)
    assert torch.bincount(nearest.indices).double().std() < 4 * (100_000 / 8) ** 0.5
    assert torch.equal(RING.points(5, 0, "a", 3), RING.points(5, 0, "a", 3))


def test_the_exact_denoiser_is_the_mixtures():
    x = torch.randn(50, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sigma in (0.01, 0.2, 3.0):
        level = torch.tensor(sigma, dtype=torch.float64)
        torch.testing.assert_close(RING.denoise(x, level), MixtureDenoiser(RING.centres, 0.05)(x, level), rtol=0, atol=1e-12)


def test_sliced_wasserstein_of_a_shift_and_of_a_scaling():
    x = torch.randn(5000, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # A shift by d moves every projection by its share: the mean square over directions is |d|^2 / 2.
    shift = torch.tensor([0.3, -0.4], dtype=torch.float64).reshape(1, *SHAPE)
    assert sliced_wasserstein(x, x + shift) == pytest.approx(0.5 / 2**0.5, rel=1e-9)
    # A scaling by c of a standard normal: (c - 1) times the projections' root mean square, which is near 1.
    root = x.square().mean().sqrt().item()
    assert sliced_wasserstein(x, 1.5 * x) == pytest.approx(0.5 * root, rel=1e-9)
    assert sliced_wasserstein(x, x.flip(0)) == 0.0


@cache
def teacher(steps: int):
    return ring_teacher(RING, SUITE.teacher.model_copy(update={"steps": steps}))


@cache
def run(method: str, seed: int, teacher_steps: int, **changes):
    """A method of the suite, with some of its parameters changed: its path and the state that it ends with."""
    p = SUITE.score_distillation[method].model_copy(update=changes)
    path, _ = record(Origin(teacher(teacher_steps)), p, Labelled(RING.points(256, 0, "data")), seed)
    return path, distil(path, p, seed, distance)


@torch.no_grad()
def distance(student) -> float:
    return sliced_wasserstein(generate(student, 2.5 * Draw(0, "evaluation").normal((8000, *SHAPE)), 2.5), RING.points(8000, 0, "reference"))


def start(path: DegradationPath, state: TrainingState):
    """By update, the distance of the student itself and the raw mismatch of the current target at sigma 0.2."""
    student, node_at = state.modules["student"].eval(), {row["update"]: row["node"] for row in state.rows}
    raw, mismatches = {}, {}
    for update in SNAPSHOTS:
        student.load_state_dict(state.snapshots[f"student-{update:09d}"])
        with torch.no_grad():
            samples = generate(student, 2.5 * Draw(0, "mismatch-z").normal((2000, *SHAPE)), 2.5)
        target = path.nodes[node_at[update]]
        raw[update], mismatches[update] = distance(student), mismatch(target, target, samples, [0.2])["raw_mean"][0]
    return raw, mismatches


def whole(method: str, seed: int):
    """The run of the suite, its average measured where its start and its end are judged: `start`, and the mean of the last distances."""
    p = SUITE.score_distillation[method]
    last = tuple(p.updates - k * p.evaluate_every for k in range(SUITE.evaluation.window))
    path, state = run(method, seed, SUITE.teacher.steps, evaluate_every=p.updates, snapshots=SNAPSHOTS + last)
    return *start(path, state), sum(row["fd_classifier"] for row in state.rows if row["update"] in last) / len(last)


@pytest.mark.slow
def test_the_teacher_is_close_to_the_exact_denoiser():
    points, denoiser = RING.points(4000, 1, "test"), teacher(2000)
    for sigma, allowed in ((0.1, 0.06), (0.5, 0.06), (2.0, 0.06)):
        level = torch.tensor(sigma)
        noisy = points + sigma * Draw(1, "test-noise").normal((4000, *SHAPE))
        with torch.no_grad():
            error = (denoiser(noisy, level) - RING.denoise(noisy, level)).square().mean().sqrt().item()
        assert error < allowed


@pytest.mark.slow
def test_disback_starts_at_less_than_six_tenths_of_the_mismatch_and_makes_no_detour():
    """Seed 0, 250 updates: measured 12.0 against 5.9 at update 0, and 4 to 50 % less up to update 100, while nodes are the targets."""
    short = {"updates": 250, "evaluate_every": 250, "snapshots": SNAPSHOTS}
    _, plain = start(*run("diff-instruct", 0, 2000, **short))
    raw, walked = start(*run("disback", 0, 2000, **short))
    assert walked[0] < 0.6 * plain[0]
    assert all(walked[update] < 0.9 * plain[update] for update in (0, 10, 20, 30))
    assert sum(walked.values()) < 0.85 * sum(plain.values())
    assert max(walked.values()) < 1.1 * walked[0]  # no spike when the teacher comes back
    assert max(raw[update] for update in SNAPSHOTS if update <= 150) <= raw[0] + 0.005


@pytest.mark.slow
def test_the_claims_hold_over_three_seeds():
    """Seeds 0, 1, 2, 1,500 updates of the student (the recording not charged).

    Measured: the mismatch lower at each of ten snapshots, by 44 to 51 % up to update 30 and by 0.2 to 2 % from 125 to 200, after which the
    teacher is the target of both; the end at .0471 against .0496, nearer by .0011, .0025 and .0040. With a teacher of 2,000 updates the
    ends differ by less: they are then the teacher's own error, and the way there does not matter.
    """
    plain, walked = ([whole(method, seed) for seed in (0, 1, 2)] for method in ("diff-instruct", "disback"))
    for (_, high, far), (raw, low, near) in zip(plain, walked, strict=True):
        assert all(low[update] < high[update] for update in SNAPSHOTS)
        assert all(low[update] < 0.9 * high[update] for update in (0, 10, 20, 30))
        assert max(raw[update] for update in SNAPSHOTS if update <= SUITE.evaluation.detour_updates) <= raw[0] + 0.005
        assert near < far
    assert sum(run[2] for run in plain) - sum(run[2] for run in walked) > 3 * 0.001
