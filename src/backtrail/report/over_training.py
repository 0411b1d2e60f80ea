"""Figures over training: convergence (DisBack, Fig. 1), mismatch degree (DisBack, Fig. 4), and the losses along the recorded path.

Each figure is two functions: `*_data` makes the tidy table that is also written as CSV, `draw_*` draws that table and nothing else.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backtrail.report.collect import MEASURES, Suite, curves, floor, mismatch, paths
from backtrail.report.style import band, floor_line, label, legend_below, literal, log_if_wide, look, metric_label

CURVE_METRIC = "fd_classifier"
PATH_LOSSES = {"loss_student": "on samples of the initial student", "loss_data": "on data"}


def over_seeds(rows: pd.DataFrame, by: list[str], value: str, averaged: tuple[str, ...] = ()) -> pd.DataFrame:
    """Mean, minimum and maximum of `value` over seeds, and the number of seeds, per group; groups in the order in which they come.

    `averaged` names columns that may differ between seeds (a recording that stopped earlier, an adaptive switch of nodes): their mean.
    """
    grouped = rows.groupby(by, sort=False)
    also = {name: (name, "mean") for name in averaged}
    return grouped.agg(**also, mean=(value, "mean"), min=(value, "min"), max=(value, "max"), n_seeds=("seed", "nunique")).reset_index()


def seeds_sentence(data: pd.DataFrame) -> str:
    """How many seeds stand behind a table's rows, in words."""
    fewest, most = data["n_seeds"].min(), data["n_seeds"].max()
    if most == 1:
        return "1 seed"
    return f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"


def convergence_data(suite: Suite) -> pd.DataFrame:
    """FD-classifier over total updates (recording included): method, update, nfe, total_updates, cost, node, mean, min, max, ..., floor."""
    rows = curves(suite, suite.methods("score")).dropna(subset=[CURVE_METRIC])
    data = over_seeds(rows, ["method", "update", "nfe"], CURVE_METRIC, ("total_updates", "cost", "node"))
    return data.assign(floor=floor(suite, CURVE_METRIC, "floor_curve"))


def draw_convergence(data: pd.DataFrame) -> Figure:
    """DisBack, Fig. 1: quality against updates, where a method that records a path starts at the length of its recording."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for method, rows in data.groupby("method", sort=False):
        rows = rows.sort_values("total_updates")
        of = look(str(method))
        start = rows.iloc[0]
        if start["total_updates"] > start["update"]:
            recorded = f"{of.label}, recording the path"
            axes.plot([0, start["total_updates"]], [start["mean"]] * 2, color=of.colour, linewidth=1, linestyle=":", label=recorded)
        band(axes, rows, "total_updates", of)
        mark_switches(axes, rows, "total_updates", of.colour)
    floor_line(axes, data["floor"].iloc[0], data["min"].min())
    from_zero(axes, data["total_updates"])
    axes.set_xlabel("Updates, recording included")
    axes.set_ylabel(f"{metric_label(CURVE_METRIC)} (lower is better)")
    log_if_wide(axes, data["min"])
    legend_below(figure, axes, 2)
    return figure


def from_zero(axes: Axes, values: pd.Series) -> None:
    """An x axis from 0, with room for the whole of the first and last marker."""
    axes.set_xlim(-0.02 * values.max(), 1.03 * values.max())


def mark_switches(axes: Axes, rows: pd.DataFrame, x: str, colour: str) -> None:
    """A hollow square around each point at which the target has become another node of the path."""
    switched = rows[rows["node"].ne(rows["node"].shift()) & rows["node"].shift().notna()]
    if len(switched):
        name = None if any(text.startswith("Target") for text in axes.get_legend_handles_labels()[1]) else "Target has become another node"
        axes.plot(
            switched[x], switched["mean"], "s", markersize=10, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1, label=name
        )


def convergence_caption(data: pd.DataFrame) -> str:
    """What the figure shows, with the recording's length and the seeds taken from its data."""
    recorded_updates = (data["total_updates"] - data["update"]).groupby(data["method"], sort=False).first()
    recorded = "; ".join(f"{label(str(method))} starts after {n:.0f} of them" for method, n in recorded_updates.items() if n > 0)
    return (
        f"{metric_label(CURVE_METRIC)} of the student against updates. The updates that record the degradation path are charged on the "
        f"x axis{f' ({recorded})' if recorded else ''}. Line: mean; band: minimum to maximum over {seeds_sentence(data)}. Features of "
        "a small classifier trained on this data set: the distance ranks students of this suite and is not FID. Compare DisBack, Fig. 1."
    )


def in_noise_units(rows: pd.DataFrame) -> pd.DataFrame:
    """Mismatch in units of the noise: a score's norm times sigma, a squared denoising error over sigma squared.

    Without these weights the smallest sigma alone would decide the mean over the sigma grid.
    """
    weights = {"raw": rows["sigma"], "excess": rows["sigma"] ** -2.0, "difference": rows["sigma"]}
    return rows.assign(**{f"{m}_{s}": rows[f"{m}_{s}"] * weights[m] for m in MEASURES for s in ("mean", "std")})


def mismatch_per_seed(suite: Suite, methods: list[str]) -> pd.DataFrame:
    """Mean over the sigma grid in noise units: method, seed, update, total_updates, node, measure, value, sample_std."""
    rows = in_noise_units(mismatch(suite, methods))
    keys = ["method", "seed", "update", "total_updates", "node"]
    means = rows.groupby(keys, sort=False)[[f"{m}_{s}" for m in MEASURES for s in ("mean", "std")]].mean().reset_index()
    parts = [
        means[keys].assign(measure=measure, value=means[f"{measure}_mean"], sample_std=means[f"{measure}_std"]) for measure in MEASURES
    ]
    return pd.concat(parts, ignore_index=True)


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
    panels = figure.subplots(1, len(MEASURES))
    for axes, measure in zip(panels, MEASURES, strict=True):
        for method, rows in data[data["measure"] == measure].groupby("method", sort=False):
            of = look(str(method))
            rows = rows.sort_values("update")
            band(axes, rows, "update", of)
            mark_switches(axes, rows, "update", of.colour)
        name, formula = titles[measure]
        axes.set_title(name)
        axes.set_ylabel(f"{formula}, noise units")
        axes.set_xlabel("Student updates")
        from_zero(axes, data["update"])
        if measure == "excess":
            axes.axhline(0, color="#444444", linewidth=0.8)
    legend_below(figure, panels[0], 4)
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
    panels = figure.subplots(1, len(methods), squeeze=False, sharey=True)[0]
    for axes, method in zip(panels, methods, strict=True):
        of = look(str(method))
        nodes = data[data["method"] == method].drop_duplicates("node").sort_values("node")
        for (loss, name), style in zip(PATH_LOSSES.items(), (of, look("heun")), strict=True):
            rows = data[(data["method"] == method) & (data["loss"] == loss)].sort_values("node")
            band(axes, rows, "node", style, f"Loss {name}")
        every = max(1, -(-len(nodes) // 9))
        shown = nodes.iloc[::every]
        names = [f"node {row.node}\n" + ("teacher" if row.node == 0 else f"step {row.step:.0f}") for row in shown.itertuples()]
        axes.set_xticks(shown["node"], names)
        axes.margins(x=0.09)
        axes.set_title(literal(label(str(method))))
        axes.set_xlabel("Node of the degradation path, in the order of recording")
    panels[0].set_ylabel("Denoising loss (weighted, per value)")
    log_if_wide(panels[0], data["min"])
    legend_below(figure, panels[0], 2)
    return figure


def path_caption(data: pd.DataFrame) -> str:
    """What the path's two losses say."""
    return (
        "Denoising loss of every node of the recorded degradation path. Along the path the loss on the initial student's samples should "
        "fall and the loss on data should rise; a first step that takes most of the way means that the nodes are spaced too far apart. "
        f"Line: mean; band: minimum to maximum over {seeds_sentence(data)}."
    )
