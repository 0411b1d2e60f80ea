"""The papers' claims, each judged from the suite's own numbers by one stated rule (`verdicts.py`).

A claim is a function that returns margins: one row per condition (an NFE, an update, ...) and training seed, with the two values that are
compared and `margin`, positive where that seed speaks for the claim.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd

from backtrail.report.collect import MEASURES, Suite, curves, of_metric, paths, quality, unguided
from backtrail.report.names import metric_label
from backtrail.report.seeds import CURVE_METRIC, mismatch_per_seed
from backtrail.report.statements import STATEMENTS
from backtrail.report.verdicts import (
    NOT_RUN,
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

WINDOW = 3  # evaluations that are averaged at the end of a curve, because single ones jump
COLUMNS = ["condition", "seed", "ours", "other", "margin"]
JUDGED = ["claim", "text", "source", "quantity", "verdict", "n_seeds", "n_conditions", "n_for", "n_against", "weakest_condition"]
JUDGED += ["weakest_ours", "weakest_other", "weakest_margin", "weakest_margin_std", "mean_margin"]
JUDGED += ["level", "low", "high", "p", "effect_size", "seeds_to_decide"]


@dataclass(frozen=True)
class Claim:
    """One claim: what is said, where, in which quantity, and the margins that decide it."""

    key: str
    text: str
    source: str
    quantity: Callable[[Suite], str]
    margins: Callable[[Suite], pd.DataFrame]


def rows(condition: str, ours: "pd.Series[float]", other: "pd.Series[float]") -> pd.DataFrame:
    """Margins of one condition from two series over seeds; a series of one seed (the teacher) stands against every seed of the other."""
    if len(other) == 1 and len(ours) > 1:
        other = pd.Series(other.iloc[0], index=ours.index)
    pair = pd.DataFrame({"ours": ours, "other": other}).dropna()
    pair.index.name = "seed"
    pair = pair.reset_index().assign(condition=condition)
    return pair.assign(margin=pair["other"] - pair["ours"])[COLUMNS]


def joined(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Conditions under one another; an empty table where there are none."""
    parts = list(parts)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def table_metric(suite: Suite, method: str, trained: bool = True) -> dict[int, "pd.Series[float]"]:
    """The table metric of a method or solver: NFE -> series over seeds, at the NFE that it was trained for."""
    values = of_metric(unguided(quality(suite)), suite.report.metric)
    values = values[(values["method"] == method) & values["trained"]]
    return {int(nfe): of.set_index("seed")["value"] for nfe, of in values.groupby("nfe")}


def better_at_shared_nfe(ours: str, other: str, among: Iterable[int] | None = None) -> Callable[[Suite], pd.DataFrame]:
    """Margins of `ours` against `other` at every NFE that both have (and that stands in `among`)."""

    def margins(suite: Suite) -> pd.DataFrame:
        a, b = table_metric(suite, ours), table_metric(suite, other)
        shared = sorted(a.keys() & b.keys() & (set(among) if among is not None else a.keys()))
        return joined(rows(f"NFE {nfe}", a[nfe], b[nfe]) for nfe in shared)

    return margins


def improves_with_nfe(method: str) -> Callable[[Suite], pd.DataFrame]:
    """Margins of each trained NFE against the next smaller one."""

    def margins(suite: Suite) -> pd.DataFrame:
        by_nfe = table_metric(suite, method)
        order = sorted(by_nfe)
        return joined(rows(f"NFE {few} to {more}", by_nfe[more], by_nfe[few]) for few, more in pairwise(order))

    return margins


def better_at_equal_cost(ours: str, other: str) -> Callable[[Suite], pd.DataFrame]:
    """Margins at the largest cost that every curve reaches, each curve's value being the mean of its last evaluations up to there."""

    def margins(suite: Suite) -> pd.DataFrame:
        if not {ours, other} <= set(suite.methods()):
            return joined([])
        evaluated = curves(suite, [ours, other]).dropna(subset=[CURVE_METRIC])
        common = evaluated.groupby(["method", "seed"])["cost"].max().min()
        last = evaluated[evaluated["cost"] <= common].sort_values("cost").groupby(["method", "seed"]).tail(WINDOW)
        ends = last.groupby(["method", "seed"])[CURVE_METRIC].mean()
        return rows(f"cost {common:,.0f} F", ends[ours], ends[other])

    return margins


def lower_mismatch(ours: str, other: str, measure: str) -> Callable[[Suite], pd.DataFrame]:
    """Margins of one mismatch measure at every student update that both were measured at."""

    def margins(suite: Suite) -> pd.DataFrame:
        if not {ours, other} <= set(suite.methods("score")):
            return joined([])
        values = mismatch_per_seed(suite, [ours, other])
        table = values[values["measure"] == measure].pivot(index=["update", "seed"], columns="method", values="value").dropna()
        return joined(rows(f"update {update}", of.loc[update, ours], of.loc[update, other]) for update, of in table.groupby(level="update"))

    return margins


def along_path(method: str, loss: str, falls: bool) -> Callable[[Suite], pd.DataFrame]:
    """Margins of each node of a recorded path against the node before it: positive where the loss moves as it should."""

    def margins(suite: Suite) -> pd.DataFrame:
        if method not in suite.recorded:
            return joined([])
        recorded = paths(suite)
        recorded = recorded[recorded["method"] == method]
        by_node = {int(node): of.set_index("seed")[loss] for node, of in recorded.groupby("node")}
        pairs = [(before, after) if falls else (after, before) for before, after in pairwise(sorted(by_node))]
        return joined(
            rows(f"node {ours} after {other}" if falls else f"node {ours} before {other}", by_node[ours], by_node[other])
            for other, ours in pairs
        )

    return margins


def _table(suite: Suite) -> str:
    return metric_label(suite.report.metric)


def _fixed(name: str) -> Callable[[Suite], str]:
    return lambda suite: name


JUDGED_BY: dict[str, tuple[Callable[[Suite], str], Callable[[Suite], pd.DataFrame]]] = {
    "sfd-v-beats-dpmpp": (_table, better_at_shared_nfe("sfd-v", "dpmpp-3m", range(2, 6))),
    "sfd-beats-dpmpp": (_table, better_at_shared_nfe("sfd", "dpmpp-3m")),
    "sfd-v-beats-sfd": (_table, better_at_shared_nfe("sfd-v", "sfd")),
    "quality-rises-with-nfe": (_table, improves_with_nfe("sfd-v")),
    "sfd-beats-algorithm-1": (_table, better_at_shared_nfe("sfd", "trajectory")),
    "disback-beats-diff-instruct-curve": (
        _fixed(f"{metric_label(CURVE_METRIC)}, mean of the last {WINDOW} evaluations"),
        better_at_equal_cost("disback", "diff-instruct"),
    ),
    "disback-beats-diff-instruct": (_table, better_at_shared_nfe("disback", "diff-instruct")),
    **{
        f"disback-lower-mismatch-{measure}": (_fixed(f"mismatch, {measure}"), lower_mismatch("disback", "diff-instruct", measure))
        for measure in MEASURES
    },
    "path-fits-student": (_fixed("denoising loss"), along_path("disback", "loss_student", falls=True)),
    "path-leaves-data": (_fixed("denoising loss"), along_path("disback", "loss_data", falls=False)),
}
CLAIMS = tuple(Claim(key, text, source, *JUDGED_BY[key]) for key, (text, source) in STATEMENTS.items())


def own_claims(suite: Suite) -> tuple[Claim, ...]:
    """What the suite itself claims, by its parameters (`report.comparisons`)."""
    return tuple(
        Claim(f"own-{name}", of.text, "this suite", _table, better_at_shared_nfe(of.ours, of.other))
        for name, of in suite.report.comparisons.items()
    )


def judge_all(suite: Suite, claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """The table of claims, one row each, judged together by `verdicts.RULE`: the papers' and the suite's own where none are given.

    The weakest condition has the smallest mean margin.
    level: the confidence level of the interval `low` to `high` of the smallest mean margin; p: before the correction for several claims.
    """
    claims = (*CLAIMS, *own_claims(suite)) if claims is None else claims
    margins = {claim.key: claim.margins(suite) for claim in claims}
    found = {key: by_condition(of) for key, of in margins.items() if len(of)}
    levels = holm_levels(pd.Series({key: p_value(of) for key, of in found.items()}, dtype=float))
    table = []
    for claim in claims:
        row = {"claim": claim.key, "text": claim.text, "source": claim.source, "quantity": claim.quantity(suite), "verdict": NOT_RUN}
        if claim.key in found:
            row |= {"n_seeds": margins[claim.key]["seed"].nunique(), **_judged(found[claim.key], levels[claim.key])}
        table.append(row)
    return pd.DataFrame(table, columns=JUDGED)


def _judged(conditions: pd.DataFrame, alpha: float) -> dict[str, object]:
    """What the table says of one claim at its level."""
    (low, high), (lows, highs) = interval(conditions, alpha), bounds(conditions, alpha)
    found, weakest = verdict(low, high), conditions.loc[conditions["margin"].idxmin()]
    return {
        "verdict": found,
        "n_conditions": len(conditions),
        "n_for": int((lows > 0).sum()),
        "n_against": int((highs < 0).sum()),
        "weakest_condition": weakest.name,
        **{f"weakest_{name}": weakest[name] for name in ("ours", "other", "margin")},
        "weakest_margin_std": weakest["std"],
        "mean_margin": conditions["margin"].mean(),
        "level": 1 - alpha,
        "low": low,
        "high": high,
        "p": p_value(conditions),
        "effect_size": effect_size(weakest),
        "seeds_to_decide": seeds_to_decide(conditions, alpha) if found == UNDECIDED else math.nan,
    }
