"""Intervals, Holm's levels and sample sizes, on draws whose truth is known and against scipy's own tests."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from backtrail.report.verdicts import (
    ALPHA,
    HELD,
    MOST_SEEDS,
    NOT_HELD,
    POWER,
    UNDECIDED,
    bounds,
    by_condition,
    effect_size,
    holm_levels,
    interval,
    p_value,
    seeds_to_decide,
    verdict,
)

DRAWS = 1000


def conditions(*values: list[float]) -> pd.DataFrame:
    """The summary of margins, given condition by condition over seeds."""
    parts = [pd.DataFrame({"condition": i, "seed": range(len(of)), "ours": 0.0, "other": of, "margin": of}) for i, of in enumerate(values)]
    return by_condition(pd.concat(parts, ignore_index=True))


def drawn(means: list[float], n_seeds: int, seed: int, shared: float = 0.0) -> pd.DataFrame:
    """Normal margins around `means` with unit variance, of which a part `shared` is the seed's own in all conditions."""
    rng = np.random.default_rng(seed)
    own, common = rng.standard_normal((len(means), n_seeds)), rng.standard_normal(n_seeds)
    margins = np.array(means)[:, None] + math.sqrt(1 - shared) * own + math.sqrt(shared) * common
    return pd.DataFrame({"ours": 0.0, "other": 0.0, "margin": margins.mean(1), "std": margins.std(1, ddof=1), "n": n_seeds})


def within_error(n_hits: int, rate: float) -> bool:
    """Whether a count of DRAWS is within three standard errors of its rate."""
    return abs(n_hits / DRAWS - rate) <= 3 * math.sqrt(rate * (1 - rate) / DRAWS)


@pytest.mark.parametrize("n_seeds", [3, 10])
def test_the_interval_of_one_condition_covers_as_often_as_it_says(n_seeds: int) -> None:
    found = [interval(drawn([0.3], n_seeds, seed), 0.1) for seed in range(DRAWS)]
    assert within_error(sum(low <= 0.3 <= high for low, high in found), 0.9)
    assert within_error(sum(low > 0.3 for low, _ in found), 0.05)  # and errs on either side alike


def test_it_is_the_paired_t_interval_of_scipy() -> None:
    ours, other = np.array([3.0, 4.0, 2.5, 6.0]), np.array([3.5, 4.2, 4.0, 6.1])
    theirs = stats.ttest_rel(other, ours)
    found = conditions(list(other - ours))
    assert interval(found, 0.02) == pytest.approx(tuple(theirs.confidence_interval(0.98)), rel=1e-12)
    assert p_value(found) == pytest.approx(theirs.pvalue, rel=1e-12)


@pytest.mark.parametrize("shared", [0.0, 0.9], ids=["unrelated", "related"])
@pytest.mark.parametrize("means", [[0.0] * 4, [0.0, 2.0, 2.0, 2.0], [-0.5, 0.5, 3.0]], ids=["all at 0", "one at 0", "one below"])
def test_the_interval_of_several_conditions_covers_the_smallest_mean_at_least_so_often(means: list[float], shared: float) -> None:
    found = [interval(drawn(means, 6, seed, shared), 0.1) for seed in range(DRAWS)]
    hits = sum(low <= min(means) <= high for low, high in found)
    assert hits / DRAWS > 0.9 - 3 * math.sqrt(0.09 / DRAWS)
    assert sum(low > min(means) for low, _ in found) / DRAWS < 0.05 + 3 * math.sqrt(0.0475 / DRAWS)


def test_the_verdict_is_the_sign_of_the_interval() -> None:
    assert (verdict(0.1, 2.0), verdict(-2.0, -0.1), verdict(-0.1, 0.1), verdict(0.0, 1.0)) == (HELD, NOT_HELD, UNDECIDED, UNDECIDED)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1.0, 1.1, 0.9]], HELD),
        ([[1.0, 1.1, 0.9], [3.0, 3.1, 2.8]], HELD),
        ([[1.0, 2.0, 0.1]], UNDECIDED),  # every sign speaks for it: by signs this was held
        ([[-1.0, -2.0, -0.1]], UNDECIDED),
        ([[-1.0, -1.1, -0.9]], NOT_HELD),
        ([[100.0, 100.1, 99.0], [-1.0, -1.01, -0.99]], NOT_HELD),  # one condition is enough against a claim of all
        ([[0.0, 0.0, 0.0]], UNDECIDED),
        ([[1.0, 1.0, 1.0]], HELD),
        ([[1.0, 1.1]], UNDECIDED),  # too few seeds
        ([[1.0, 1.1, 0.9], [1.0]], UNDECIDED),
        ([[-1.0, -1.01, -0.99], [1.0]], NOT_HELD),
    ],
)
def test_verdicts_of_small_samples(values: list[list[float]], expected: str) -> None:
    found = conditions(*values)
    assert verdict(*interval(found, ALPHA)) == expected
    assert (p_value(found) < ALPHA) == (expected != UNDECIDED)


def test_bounds_count_the_conditions_as_the_verdict_does() -> None:
    for seed in range(50):
        found = drawn([0.5, 1.0, -0.5], 5, seed)
        low, high = bounds(found, 0.1)
        said = verdict(*interval(found, 0.1))
        assert ((low > 0).all(), (high < 0).any()) == (said == HELD, said == NOT_HELD)


def test_holm_levels() -> None:
    levels = holm_levels(pd.Series({"a": 0.02, "b": 0.001, "c": 0.2, "d": 0.014}), 0.05)
    # 0.001 < 0.05/4; 0.014 < 0.05/3; 0.02 < 0.05/2; 0.2 > 0.05
    assert levels.to_dict() == pytest.approx({"b": 0.05 / 4, "d": 0.05 / 3, "a": 0.05 / 2, "c": 0.05})
    stopped = holm_levels(pd.Series({"a": 0.03, "b": 0.001, "c": 0.031}), 0.05)
    assert stopped.to_dict() == pytest.approx({"b": 0.05 / 3, "a": 0.05 / 2, "c": 0.05 / 2})
    assert holm_levels(pd.Series(dtype=float)).empty


def test_all_verdicts_of_a_table_are_right_as_often_as_it_says() -> None:
    """Four claims of nothing and two that are true: how often any of the six verdicts contradicts the truth."""
    wrong, n = 0, DRAWS // 2
    for draw in range(n):
        found = [drawn([0.0 if claim < 4 else 3.0], 5, 100 * draw + claim) for claim in range(6)]
        levels = holm_levels(pd.Series([p_value(one) for one in found]))
        verdicts = [verdict(*interval(one, level)) for one, level in zip(found, levels, strict=True)]
        wrong += any(v != UNDECIDED for v in verdicts[:4]) or NOT_HELD in verdicts[4:]
    assert wrong / n < ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / n)
    assert wrong > 0  # and the correction does not make all of it undecided


def test_effect_size_is_unbiased_for_few_seeds() -> None:
    found = [effect_size(drawn([1.0], 4, seed).iloc[0]) for seed in range(2 * DRAWS)]
    assert np.mean(found) == pytest.approx(1.0, abs=4 * np.std(found) / math.sqrt(len(found)))
    assert math.isnan(effect_size(conditions([1.0, 1.0, 1.0]).iloc[0]))


def test_with_the_seeds_it_asks_for_a_claim_is_decided_as_often_as_it_says() -> None:
    pilot = conditions(list(stats.norm.ppf((np.arange(8) + 0.5) / 8)))
    pilot["margin"] = 0.9 * pilot["std"]
    n, effect = seeds_to_decide(pilot, 0.02), effect_size(pilot.iloc[0])
    decided = sum(interval(drawn([effect], int(n), seed), 0.02)[0] > 0 for seed in range(DRAWS))
    fewer = sum(interval(drawn([effect], int(n) - 4, seed), 0.02)[0] > 0 for seed in range(DRAWS))
    assert POWER - 3 * math.sqrt(0.16 / DRAWS) < decided / DRAWS < POWER + 0.1
    assert fewer / DRAWS < POWER


def test_seeds_to_decide_by_the_side_that_the_means_are_on() -> None:
    clear, weak = [1.0, 1.3, 0.8, 1.1], [0.1, 0.4, -0.3, 0.3]
    both = seeds_to_decide(conditions(clear, weak), ALPHA)
    assert both > seeds_to_decide(conditions(clear), ALPHA)  # held needs the weakest condition too
    against = seeds_to_decide(conditions([-x for x in clear], weak), ALPHA)
    assert against < both  # not held needs one
    assert math.isnan(seeds_to_decide(conditions([1.0, 2.0]), ALPHA))
    assert seeds_to_decide(conditions([1.0, -1.0, 1.0, -0.99]), ALPHA) > MOST_SEEDS
