"""Ablations: one axis, one figure, one table, one sentence. An axis varies one thing over methods or over the teacher's samplers.

A method's quality is read from the end of its training curve, so that an ablation needs neither an archive of samples nor its metrics.
"""

import textwrap
from pathlib import Path

import matplotlib
import pandas as pd
import seaborn.objects as so
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from backtrail.artifacts import atomic_write
from backtrail.errors import UserError
from backtrail.parameters.report import Axis, AxisValue, SamplerAxis
from backtrail.report.claims import WINDOW
from backtrail.report.claims import rows as paired
from backtrail.report.collect import Suite, curves, floor, of_metric, open_suite, quality, teacher_metrics
from backtrail.report.names import Look, literal, metric_label
from backtrail.report.seeds import CURVE_METRIC, seeds_sentence
from backtrail.report.style import THEME, floor_line, handle, legend_below, log_if_wide, over, save_figure
from backtrail.report.verdicts import ALPHA, MIN_SEEDS, UNDECIDED, by_condition, interval
from backtrail.tables import save_csv

ALIKE = 1.01  # costs that differ by no more than this factor count as equal
DARK, BASELINE = "#222222", "#0077bb"
MARKERS = "osD^vXP*"


def axis_data(suite: Suite, axis: Axis) -> pd.DataFrame:
    """One row a method and seed: value, method, baseline, seed, nfe, n_evaluations, total_updates, cost (F), fd_classifier, floor.

    fd_classifier is the mean of the curve's last evaluations, cost that of the whole run. Raises UserError if the methods were evaluated
    at different NFE.
    """
    if unknown := [method for method in axis.methods if method not in suite.families]:
        raise UserError(f"report.axes names {', '.join(unknown)}, which is no method of the suite; known: {', '.join(suite.methods())}")
    rows = curves(suite, list(axis.methods))
    nfe = rows.groupby("method", sort=False)["nfe"].unique().map(sorted)
    if len({tuple(of) for of in nfe}) > 1:
        found = ", ".join(f"{method} {'/'.join(map(str, of))}" for method, of in nfe.items())
        raise UserError(
            f"an axis compares methods at one NFE, and the curves were evaluated at: {found}; take the odd ones out of the axis"
        )
    keys = ["method", "seed"]
    spent = rows.groupby(keys, sort=False)[["nfe", "total_updates", "cost"]].max()
    # The row of update 0 is the start and says nothing of the training.
    last = rows[rows["update"] > 0].dropna(subset=[CURVE_METRIC]).sort_values("total_updates", kind="stable").groupby(keys).tail(WINDOW)
    ends = last.groupby(keys, sort=False)[CURVE_METRIC].agg(**{"n_evaluations": "size", CURVE_METRIC: "mean"})
    data = spent.join(ends).reset_index()
    data.insert(0, "value", data["method"].map(axis.methods))
    data.insert(2, "baseline", data["method"] == axis.baseline)
    columns = ["value", "method", "baseline", "seed", "nfe", "n_evaluations", "total_updates", "cost", CURVE_METRIC]
    return data[columns].assign(floor=floor(suite, CURVE_METRIC, "floor_curve"))


def sampler_axis_data(suite: Suite, axis: SamplerAxis) -> pd.DataFrame:
    """One row a sampler and NFE: value, kind (teacher), method (the sampler), baseline, nfe, metric, mean (of one model), floor."""
    metric = suite.report.metric
    rows = of_metric(quality(suite, teacher_metrics(suite)), metric).rename(columns={"value": "mean"})
    if unknown := [sampler for sampler in axis.samplers if sampler not in set(rows["method"])]:
        raise UserError(
            f"report.sampler_axes names {', '.join(unknown)}, which the teacher's metrics have not: run stage `teacher-metrics`"
        )
    order = {sampler: i for i, sampler in enumerate(axis.samplers)}
    rows = rows[rows["method"].isin(order)].sort_values(
        ["method", "nfe"], key=lambda column: column.map(order) if column.name == "method" else column, ignore_index=True
    )
    rows = rows.assign(value=rows["method"].map(axis.samplers), baseline=rows["method"] == axis.baseline, floor=floor(suite, metric))
    return rows[["value", "kind", "method", "baseline", "nfe", "metric", "mean", "floor"]]


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


def draw_axis(axis: Axis, data: pd.DataFrame) -> Figure:
    """The metric over the axis: a point a seed, the mean, and the baseline's seeds as a band."""
    values = list(axis.methods.values())
    numbers = not any(isinstance(value, str) for value in values)
    figure = Figure(figsize=(max(5.2, 0 if numbers else 1.0 + 1.05 * len(values)), 3.9), layout="constrained")
    places, scale = _places(values)
    data = data.assign(place=data["method"].map(dict(zip(axis.methods, places, strict=True))))
    plot = so.Plot(data, x="place", y=CURVE_METRIC).theme(THEME).scale(x=scale)
    plot = plot.add(so.Dash(color=DARK, linewidth=2, width=0.12), so.Agg())
    if numbers:
        plot = plot.add(so.Line(color=DARK, linewidth=1.2), so.Agg())
    plot = plot.add(so.Dots(color=DARK, fillcolor="white", fillalpha=1, stroke=1))
    plot.label(x=literal(axis.label), y=f"{metric_label(CURVE_METRIC)} (lower is better)").on(figure).plot()
    axes, base = figure.axes[0], data.loc[data["baseline"], CURVE_METRIC]
    axes.axhspan(base.min(), base.max(), color=BASELINE, alpha=0.13, linewidth=0)
    axes.axhline(base.mean(), color=BASELINE, linewidth=1, linestyle=(0, (4, 2)), label="Baseline")
    axes.margins(x=0.08)
    floor_line(axes, data["floor"].iloc[0], data[CURVE_METRIC].min())
    log_if_wide(axes, data[CURVE_METRIC])
    seed = Line2D([], [], color=DARK, marker="o", markersize=4, markerfacecolor="white", linestyle="none", label="One seed")
    mean = Line2D([], [], color=DARK, linewidth=2, label="Mean")
    legend_below(figure, [seed, mean], 3)
    return figure


def _places(values: list[AxisValue]) -> tuple[list[AxisValue], so.Nominal | so.Continuous]:
    """Where the values stand on the x axis, and its scale: numbers to scale (logarithmic over more than a decade), words in order."""
    if any(isinstance(value, str) for value in values):
        names: list[AxisValue] = [literal(textwrap.fill(written(value), 14)) for value in values]
        return names, so.Nominal(order=names)
    at = [float(value) for value in values]
    scale = so.Continuous(trans="log" if min(at) > 0 and max(at) > 10 * min(at) else None)
    return list(at), scale.tick(at=at).label(like="{x:g}")


def draw_sampler_axis(axis: SamplerAxis, data: pd.DataFrame) -> Figure:
    """The metric over NFE, a line per value, the baseline dashed."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    looks = {method: _sampler_look(axis, i, method) for i, method in enumerate(data["method"].unique())}
    across = so.Continuous().tick(at=sorted(set(data["nfe"])))
    over(data, "nfe", looks.__getitem__).add(so.Line(), legend=False).scale(x=across).label(
        x="NFE (network forwards per image)", y=f"{metric_label(data['metric'].iloc[0])} (lower is better)", title=literal(axis.label)
    ).on(figure).plot()
    floor_line(figure.axes[0], data["floor"].iloc[0], data["mean"].min())
    log_if_wide(figure.axes[0], data["mean"])
    legend_below(figure, [handle(of) for of in looks.values()], 4)
    return figure


def _sampler_look(axis: SamplerAxis, place: int, method: str) -> Look:
    baseline = method == axis.baseline
    colour = to_hex(matplotlib.colormaps["viridis"](0.9 * place / max(1, len(axis.samplers) - 1)))
    name = f"{written(axis.samplers[method])}{' (baseline)' if baseline else ''}"
    return Look(literal(name), colour, MARKERS[place % len(MARKERS)], (0, (4, 2)) if baseline else "-")


def render_axis(name: str, suite_folder: str | Path = ".") -> None:
    """Write `reports/axes/{name}.png`, `.svg`, `.pdf`, the numbers as `.csv`, and the sentence with the caption as `.md`.

    Raises UserError if there is no such axis or if a file that it needs is missing.
    """
    suite = open_suite(suite_folder)
    axes = suite.report.axes | suite.report.sampler_axes
    if name not in axes:
        raise UserError(f"report has no axis {name}; known: {', '.join(axes) or 'none'}")
    axis = axes[name]
    if isinstance(axis, Axis):
        data, draw, texts = axis_data(suite, axis), draw_axis, (axis_sentence, axis_caption)
    else:
        data, draw, texts = sampler_axis_data(suite, axis), draw_sampler_axis, (sampler_axis_sentence, sampler_axis_caption)
    stem = Path(suite_folder) / "reports/axes" / name
    save_csv(stem.with_suffix(".csv"), data)
    text = "\n\n".join(write(axis, data) for write in texts) + "\n"
    atomic_write(stem.with_suffix(".md"), lambda file: file.write_text(text, encoding="utf-8"))
    save_figure(lambda: draw(axis, data), stem)
