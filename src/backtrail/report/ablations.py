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

from backtrail import layout
from backtrail.artifacts import atomic_write
from backtrail.errors import UserError
from backtrail.parameters.report import Axis, AxisValue, SamplerAxis
from backtrail.report.axis_text import axis_caption, axis_sentence, sampler_axis_caption, sampler_axis_sentence, written
from backtrail.report.claims import WINDOW
from backtrail.report.collect import Suite, curves, floor, of_metric, open_suite, quality, teacher_metrics
from backtrail.report.names import Look, literal, metric_label
from backtrail.report.seeds import CURVE_METRIC
from backtrail.report.style import THEME, floor_line, handle, legend_below, log_if_wide, over, save_figure
from backtrail.tables import save_csv

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
    stem = Path(suite_folder) / layout.AXES / name
    save_csv(stem.with_suffix(".csv"), data)
    text = "\n\n".join(write(axis, data) for write in texts) + "\n"
    atomic_write(stem.with_suffix(".md"), lambda file: file.write_text(text, encoding="utf-8"))
    save_figure(lambda: draw(axis, data), stem)
