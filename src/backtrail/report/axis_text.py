"""What an axis of the ablations says, in a sentence, and the caption of its figure: words alone, from the table that the figure draws."""

import pandas as pd

from backtrail.parameters.report import Axis, AxisValue, SamplerAxis
from backtrail.report.claims import rows as paired
from backtrail.report.names import metric_label
from backtrail.report.seeds import CURVE_METRIC, seeds_sentence
from backtrail.report.verdicts import ALPHA, MIN_SEEDS, UNDECIDED, by_condition, interval

ALIKE = 1.01  # costs that differ by no more than this factor count as equal


def written(value: AxisValue) -> str:
    """A value of an axis as text."""
    return value if isinstance(value, str) else f"{value:g}"


def below(one: "pd.Series[float]", other: "pd.Series[float]", n_compared: int) -> bool:
    """Whether `one` is lower beyond chance: the t interval of the difference, paired over seeds, lies above 0, corrected for so many
    comparisons (Bonferroni)."""
    return interval(by_condition(paired("difference", one, other)), ALPHA / n_compared)[0] > 0


def axis_sentence(axis: Axis, data: pd.DataFrame) -> str:
    """What the axis says: the best value, its margin over the baseline, whether that is more than chance over seeds, and the cost."""
    seeds = {method: of.set_index("seed")[CURVE_METRIC] for method, of in data.groupby("method", sort=False)}
    n_compared = len(seeds) - 1  # each value with the baseline
    ranked = sorted(seeds, key=lambda method: seeds[method].mean())
    first = ranked[1] if ranked[0] == axis.baseline else ranked[0]  # what the baseline is held against
    low, high = sorted((first, axis.baseline), key=lambda method: seeds[method].mean())
    margin = seeds[high].mean() - seeds[low].mean()

    def place(method: str) -> str:
        values, name = seeds[method], "the baseline " if method == axis.baseline else ""
        return f"{name}{written(axis.methods[method])} ({values.mean():.3g}, seeds {values.min():.3g} to {values.max():.3g})"

    beyond = below(seeds[low], seeds[high], n_compared)
    decided = "more than chance over seeds" if beyond else f"{UNDECIDED}, no more than chance over {len(seeds[low])} seeds may make"
    if len(seeds[low]) < MIN_SEEDS:
        decided = f"{UNDECIDED}, {MIN_SEEDS} seeds are needed"
    behind = ", ".join(written(axis.methods[method]) for method in ranked if below(seeds[axis.baseline], seeds[method], n_compared))
    worse = f" Worse than the baseline by more than chance: {behind}." if behind else ""
    return (
        f"{axis.label}: {metric_label(CURVE_METRIC)} is lowest at {place(low)}, by {margin:.2g} ({margin / seeds[high].mean():.0%}) below "
        f"{'the next best, ' if low == axis.baseline else ''}{place(high)}: {decided}.{worse} {_cost(data)}"
    )


def _cost(data: pd.DataFrame) -> str:
    least, most = data["cost"].min(), data["cost"].max()
    each = f"{least:,.0f} F each" if least == most else f"{least:,.0f} to {most:,.0f} F"
    return f"Cost: {each}{', equal within 1 %' if least < most <= ALIKE * least else ''}."


def sampler_axis_sentence(axis: SamplerAxis, data: pd.DataFrame) -> str:
    """The best value at each number of evaluations and its margin over the baseline; one teacher has no spread over seeds."""
    parts = []
    for nfe, rows in data.groupby("nfe"):
        best = rows.loc[rows["mean"].idxmin()]
        found = f"NFE {nfe} {written(axis.samplers[best['method']])} ({best['mean']:.3g}"
        base = rows.loc[rows["baseline"], "mean"]
        if best["baseline"] or base.empty:
            parts.append(f"{found})")
        else:
            parts.append(f"{found}, {base.iloc[0] - best['mean']:.2g} below the baseline)")
    return (
        f"{axis.label}: {metric_label(data['metric'].iloc[0])} is lowest at {'; '.join(parts)}. The baseline is "
        f"{written(axis.samplers[axis.baseline])}. One teacher is sampled: there is no spread over seeds to judge by."
    )


def axis_caption(axis: Axis, data: pd.DataFrame) -> str:
    """What the figure shows and how it was measured."""
    seeds = seeds_sentence(data.groupby("method")["seed"].nunique().to_frame("n_seeds"))
    fewest, most = data["n_evaluations"].min(), data["n_evaluations"].max()
    last = f"{most}" if fewest == most else f"{fewest} to {most}"
    return (
        f"{axis.shows}. {metric_label(CURVE_METRIC)} at NFE {data['nfe'].iloc[0]}, the mean of the last {last} evaluations of the training "
        f"curve. Points: {seeds}; mark: their mean; band: the baseline's seeds. A value differs from the baseline by more than chance "
        f"where the t interval of their difference, paired over at least {MIN_SEEDS} seeds, leaves out 0, all comparisons of the axis "
        f"together at {1 - ALPHA:.0%} (Bonferroni). Features of a small classifier trained on this data set: the distance ranks students "
        "of this suite and is not FID."
    )


def sampler_axis_caption(axis: SamplerAxis, data: pd.DataFrame) -> str:
    """What the figure shows."""
    return f"{axis.shows}. {metric_label(data['metric'].iloc[0])} of the teacher's samples against NFE; lower is better."
