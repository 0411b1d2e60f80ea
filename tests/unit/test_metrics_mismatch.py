"""The mismatch degree on Gaussians, where every reading has a closed form."""

import math

import pytest
import torch

from backtrail.denoiser import Condition
from backtrail.errors import UserError
from backtrail.metrics.mismatch import mismatch, readings
from backtrail.parameters.metrics import Mismatch

SHAPE = (2, 4, 4)
D = math.prod(SHAPE)
SIGMAS = Mismatch().sigmas
CHI_MEAN = math.sqrt(2) * math.exp(math.lgamma((D + 1) / 2) - math.lgamma(D / 2))  # of the norm of a standard normal in D dimensions


def exact(std):
    """The denoiser of data N(0, std^2 I)."""
    return lambda x, sigma, condition=None: x * std**2 / (std**2 + sigma**2)


def students(n, std, seed=0):
    return std * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def error_variance(shrink, std, sigma):
    """Variance per pixel of shrink * (x0 + sigma * noise) - x0 for x0 of deviation std."""
    return (shrink - 1) ** 2 * std**2 + (shrink * sigma) ** 2


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.8), (1.0, 0.3)])
def test_closed_forms(a, b):
    """Student N(0, a^2), target the denoiser of N(0, b^2), reference the student's own."""
    n = 3000
    table = mismatch(exact(b), exact(a), students(n, a), SIGMAS, batch_size=700)
    assert table["sigma"].tolist() == SIGMAS
    for row in table.itertuples():
        s = row.sigma
        by_target, by_reference = b**2 / (b**2 + s**2), a**2 / (a**2 + s**2)
        variance = error_variance(by_target, a, s)
        apart = abs(by_target - by_reference) * math.sqrt(a**2 + s**2)  # per pixel, of D_T - D_ref
        raw, difference = CHI_MEAN * math.sqrt(variance) / s**2, CHI_MEAN * apart / s**2
        excess = D * (variance - error_variance(by_reference, a, s))
        assert excess == pytest.approx(D * apart**2, rel=1e-9)  # the reference is exact, so excess is |D_T - D_ref|^2
        chi_std = math.sqrt(D - CHI_MEAN**2)
        assert row.raw_mean == pytest.approx(raw, abs=4 * row.raw_std / n**0.5)
        assert row.raw_std == pytest.approx(chi_std * math.sqrt(variance) / s**2, rel=0.06)
        assert row.excess_mean == pytest.approx(excess, abs=4 * row.excess_std / n**0.5)
        assert row.difference_mean == pytest.approx(difference, abs=4 * row.difference_std / n**0.5)
        assert row.difference_std == pytest.approx(chi_std * apart / s**2, rel=0.06)


def test_no_mismatch_where_the_target_is_the_students_own_score_and_yet_a_raw_floor():
    table = mismatch(exact(0.5), exact(0.5), students(500, 0.5), SIGMAS)
    assert (table[["excess_mean", "excess_std", "difference_mean", "difference_std"]] == 0).all(axis=None)
    for row in table.itertuples():
        floor = CHI_MEAN * 0.5 / math.sqrt(0.25 + row.sigma**2) / row.sigma  # the spread of x0 given x, as a score
        assert row.raw_mean == pytest.approx(floor, abs=4 * row.raw_std / 500**0.5)


def test_mismatch_falls_as_the_target_comes_nearer():
    samples = students(400, 0.5)
    by_target = [mismatch(exact(b), exact(0.5), samples, [0.5]).iloc[0] for b in (2.0, 1.0, 0.7, 0.5)]
    for name in ("raw_mean", "excess_mean", "difference_mean"):
        values = [row[name] for row in by_target]
        assert values == sorted(values, reverse=True)


def test_fixed_noise_per_sample_in_batches_of_any_size():
    samples = students(50, 1.0)
    whole = mismatch(exact(0.5), exact(1.0), samples, SIGMAS)
    assert whole.equals(mismatch(exact(0.5), exact(1.0), samples, SIGMAS, batch_size=7))
    assert whole.iloc[[3]].reset_index(drop=True).equals(mismatch(exact(0.5), exact(1.0), samples, SIGMAS[3:4]))


def test_conditions_go_with_their_samples():
    labels = torch.arange(10) % 3
    steps = torch.full((10,), 4.0)

    def by_label(x, sigma, condition):
        assert len(condition.labels) == len(condition.steps) == len(x)
        return x * condition.labels.reshape(-1, 1, 1, 1)

    condition = Condition(labels=labels, steps=steps)
    table = mismatch(by_label, by_label, students(10, 1.0), [1.0], batch_size=4, condition=condition)
    assert table.equals(mismatch(by_label, by_label, students(10, 1.0), [1.0], condition=condition))
    assert table["difference_mean"].item() == 0


def test_readings_are_their_definitions():
    x0, noise = torch.ones(1, 1, 1, 2), torch.tensor([[[[1.0, -1.0]]]])
    zero, two = (lambda x, s, c: torch.zeros_like(x)), (lambda x, s, c: 2 * torch.ones_like(x))
    raw, excess, difference = readings(two, zero, x0, noise, 0.5, None)[:, 0].tolist()
    assert raw == pytest.approx(math.sqrt(2) / 0.25) and excess == 0 and difference == pytest.approx(math.sqrt(8) / 0.25)


def test_too_few_samples_and_sigma_zero_are_refused():
    with pytest.raises(UserError, match="at least 2 samples and positive sigmas; found 1"):
        mismatch(exact(1), exact(1), students(1, 1.0), SIGMAS)
    with pytest.raises(UserError, match=r"found 5 and \[0\.0\]"):
        mismatch(exact(1), exact(1), students(5, 1.0), [0.0])
