"""Figures over training: convergence (DisBack, Fig. 1), mismatch degree (DisBack, Fig. 4), and the losses along the recorded path.

Each figure is two functions: `*_data` makes the tidy table that is also written as CSV, `draw_*` draws that table and nothing else.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import seaborn.objects as so
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from backtrail.report.collect import MEASURES, Suite, curves, floor, paths
from backtrail.report.names import Look, label, literal, look, metric_label
from backtrail.report.seeds import CURVE_METRIC, mismatch_per_seed, over_seeds, seeds_sentence
from backtrail.report.style import floor_line, handle, legend_below, lines, log_if_wide, over

PATH_LOSSES = {"loss_student": "on samples of the initial student", "loss_data": "on data"}


def convergence_data(suite: Suite) -> pd.DataFrame:
    """FD-classifier over total updates (recording included): method, update, nfe, total_updates, cost, node, mean, min, max, ..., floor."""
    rows = curves(suite, suite.methods("score")).dropna(subset=[CURVE_METRIC])
    data = over_seeds(rows, ["method", "update", "nfe"], CURVE_METRIC, ("total_updates", "cost", "node"))
    return data.assign(floor=floor(suite, CURVE_METRIC, "floor_curve"))


def draw_convergence(data: pd.DataFrame) -> Figure:
    """DisBack, Fig. 1: quality against updates, where a method that records a path starts at the length of its recording."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    starts = data.sort_values("total_updates").drop_duplicates("method")
    starts = starts[starts["total_updates"] > starts["update"]]
    recording = pd.concat([starts.assign(total_updates=0), starts], ignore_index=True)
    plot = curves_of(data, "total_updates").add(so.Line(marker="", linestyle=":", linewidth=1), data=recording, legend=False)
    plot.limit(x=from_zero(data["total_updates"])).label(
        x="Updates, recording included", y=f"{metric_label(CURVE_METRIC)} (lower is better)"
    ).on(figure).plot()
    floor_line(figure.axes[0], data["floor"].iloc[0], data["min"].min())
    log_if_wide(figure.axes[0], data["min"])
    recorded = [look(str(method)) for method in starts["method"]]
    dotted = [Line2D([], [], color=of.colour, linewidth=1, linestyle=":", label=f"{of.label}, recording the path") for of in recorded]
    legend_below(figure, [*methods_of(data), *dotted], 2)
    return figure


def from_zero(values: pd.Series) -> tuple[float, float]:
    """The limits of an x axis from 0, with room for the whole of the first and last marker."""
    return -0.02 * values.max(), 1.03 * values.max()


def curves_of(data: pd.DataFrame, x: str, looks: Callable[[str], Look] = look) -> so.Plot:
    """A line a method, and a hollow square around each point at which the target has become another node of the path."""
    data = data.sort_values(x)
    plot = lines(over(data, x, looks), data.groupby("method")["update"].nunique().max())
    return plot.add(so.Dot(marker="s", fill=False, pointsize=10, stroke=1), data=data[switches(data)], legend=False)


def switches(data: pd.DataFrame) -> "pd.Series[bool]":
    """Where the target differs from that of the point before, in each method's (and measure's) rows in the order of training."""
    before = data.groupby([name for name in ("measure", "method") if name in data])["node"].shift()
    return before.notna() & data["node"].ne(before)


def methods_of(data: pd.DataFrame, looks: Callable[[str], Look] = look) -> list[Line2D]:
    """Legend of the methods, and of the squares where there are any."""
    names = [handle(looks(str(method))) for method in data["method"].unique()]
    if switches(data.sort_values("update")).any():
        square: dict[str, Any] = {"marker": "s", "markersize": 10, "markerfacecolor": "none", "markeredgecolor": "#444444"}
        names.append(Line2D([], [], linestyle="none", markeredgewidth=1, label="Target has become another node", **square))
    return names


def convergence_caption(data: pd.DataFrame) -> str:
    """What the figure shows, with the recording's length and the seeds taken from its data."""
    recorded_updates = (data["total_updates"] - data["update"]).groupby(data["method"], sort=False).first()
    recorded = "; ".join(f"{label(str(method))} starts after {n:.0f} of them" for method, n in recorded_updates.items() if n > 0)
    return (
        f"{metric_label(CURVE_METRIC)} of the student against updates. The updates that record the degradation path are charged on the "
        f"x axis{f' ({recorded})' if recorded else ''}. Line: mean; band: minimum to maximum over {seeds_sentence(data)}. Features of "
        "a small classifier trained on this data set: the distance ranks students of this suite and is not FID. Compare DisBack, Fig. 1."
    )


def mismatch_data(suite: Suite) -> pd.DataFrame:
    """Mismatch over training: measure, method, update, total_updates, node, sample_std, mean, min, max, n_seeds."""
    rows = mismatch_per_seed(suite, suite.methods("score"))
    return over_seeds(rows, ["measure", "method", "update"], "value", ("total_updates", "node", "sample_std"))


def draw_mismatch(data: pd.DataFrame) -> Figure:
    """DisBack, Fig. 4: the mismatch of the current target on student samples, three ways to measure it."""
    titles = {
        "raw": ("Raw", r"$\sigma\,\Vert s_\mathrm{target} - \nabla\log q(x_t|x_0)\Vert$"),
        "excess": ("Excess", r"$(\Vert D_\mathrm{target}-x_0\Vert^2 - \Vert D_\mathrm{ref}-x_0\Vert^2)\,/\,\sigma^2$"),
        "difference": ("Difference", r"$\sigma\,\Vert s_\mathrm{target} - s_\mathrm{ref}\Vert$"),
    }
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    plot = curves_of(data, "update").facet(col="measure", order=list(MEASURES)).share(y=False)
    plot.limit(x=from_zero(data["update"])).label(x="Student updates", title=lambda measure: titles[measure][0]).on(figure).plot()
    for axes, measure in zip(figure.axes, MEASURES, strict=True):
        axes.set_ylabel(f"{titles[measure][1]}, noise units", visible=True)  # seaborn hides it where panels share a name
        if measure == "excess":
            axes.axhline(0, color="#444444", linewidth=0.8)
    legend_below(figure, methods_of(data), 4)
    return figure


def mismatch_caption(data: pd.DataFrame) -> str:
    """What the three panels measure and how they are averaged."""
    return (
        "Mismatch degree of the current distillation target on the student's samples, over student updates. Raw: the target's denoising "
        "error, with a floor that no target can go below; excess: that error less the error of a reference score fitted to the current "
        "student; difference: distance between the target's and the reference's score. Each is the mean over samples and over the sigma "
        "grid, in units of the noise (scores times sigma, squared errors over sigma squared). Line: mean; band: minimum to maximum over "
        f"{seeds_sentence(data)}; the standard deviation over samples is in the data. Compare DisBack, Fig. 4, whose own convention could "
        "not be verified."
    )


def path_data(suite: Suite) -> pd.DataFrame:
    """Loss of each node: method, loss (which), node, step, mean, min, max, n_seeds."""
    rows = paths(suite)
    tall = rows.melt(["method", "seed", "node", "step"], list(PATH_LOSSES), var_name="loss", value_name="value")
    return over_seeds(tall, ["method", "loss", "node"], "value", ("step",))


def draw_path(data: pd.DataFrame) -> Figure:
    """The path's nodes in the order of recording: they should fit the initial student better and data worse."""
    methods = list(data["method"].unique())
    figure = Figure(figsize=(max(5.2, 4.4 * len(methods)), 3.9), layout="constrained")
    styles = dict(zip(PATH_LOSSES, (look("disback"), look("heun")), strict=True))
    plot = lines(over(data, "node", styles.__getitem__, by="loss"), data["node"].nunique()).facet(col="method")
    plot.label(
        x="Node of the degradation path, in the order of recording", y="Denoising loss (weighted, per value)",
        title=lambda method: literal(label(method)),
    ).share(x=False).on(figure).plot()  # fmt: skip
    for axes, method in zip(figure.axes, methods, strict=True):
        nodes = data[data["method"] == method].drop_duplicates("node").sort_values("node")
        shown = nodes.iloc[:: max(1, -(-len(nodes) // 9))]
        names = [f"node {row.node}\n" + ("teacher" if row.node == 0 else f"step {row.step:.0f}") for row in shown.itertuples()]
        axes.set_xticks(shown["node"], names)
        axes.margins(x=0.09)
    log_if_wide(figure.axes[0], data["min"])
    legend_below(figure, [handle(replace(styles[loss], label=f"Loss {name}")) for loss, name in PATH_LOSSES.items()], 2)
    return figure


def path_caption(data: pd.DataFrame) -> str:
    """What the path's two losses say."""
    return (
        "Denoising loss of every node of the recorded degradation path. Along the path the loss on the initial student's samples should "
        "fall and the loss on data should rise; a first step that takes most of the way means that the nodes are spaced too far apart. "
        f"Line: mean; band: minimum to maximum over {seeds_sentence(data)}."
    )
