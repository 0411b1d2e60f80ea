"""The figure of the ring of Gaussians: convergence, the start, the mismatch and the end points of each method.

`ring_data` makes the tidy table that is also written as CSV, `draw_ring` draws that table and nothing else.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from backtrail import layout
from backtrail.artifacts import load_json
from backtrail.layout import PARAMS_FILE
from backtrail.parameters.base import read, section
from backtrail.parameters.ring import RingEvaluation, RingLaw
from backtrail.report.collect import MEASURES
from backtrail.report.names import LOOKS, Look, label, look
from backtrail.report.over_training import curves_of, methods_of
from backtrail.report.seeds import over_seeds
from backtrail.report.style import log_if_wide, over
from backtrail.tables import load_csv

CONTROLS = {
    "warm-start": Look("Warm start alone", "#332288", "<", (0, (5, 1.5))),
    "nodes-only": Look("Nodes alone", "#ddaa33", ">", (0, (2, 1))),
    "disback-loss": Look("DisBack, nodes by loss", "#117733", "h", (0, (4, 1, 1, 1))),
    "disback-long": Look("DisBack, long recording", "#882255", "8", (0, (1, 1))),
}
PANELS = {
    "convergence": ("Convergence, recording charged", "Updates, recording included", "Sliced $W_2$, averaged student"),
    "start": ("The start", "Student updates", "Sliced $W_2$, student itself"),
    "raw": ("Mismatch, raw", "Student updates", r"$\Vert D_\mathrm{target}-x_0\Vert\,/\,\sigma^2$"),
    "difference": ("Mismatch, difference (exact)", "Student updates", r"$\Vert s_\mathrm{target}-s_\mathrm{student}\Vert$"),
    "end": ("End points at equal updates", "Sliced $W_2$, averaged student", ""),
}


@dataclass(frozen=True)
class RingResults:
    """What the runs of a ring measured. Distances are sliced 2-Wasserstein, in units of the data."""

    data_set: str
    methods: list[str]
    curves: pd.DataFrame  # method, seed, update, total_updates, node, sliced_w2 of the averaged student
    snapshots: pd.DataFrame  # method, seed, update, total_updates, node, sliced_w2 of the student itself, raw_mean, excess_mean, ...
    floor: float  # of samples of the ring to one another
    teacher: float  # of the teacher's samples
    evaluation: RingEvaluation


def open_ring(folder: str | Path = ".") -> RingResults:
    """Read the results of a ring's suite. Raises UserError if a method's or a seed's file is absent."""
    path = Path(folder) / PARAMS_FILE
    values, teacher = read(path), load_json(Path(folder) / layout.TEACHER_VALUES)
    methods, law = list(values["score_distillation"]), section(RingLaw, "ring", path)

    def stacked(place: Callable[[str, int], str]) -> pd.DataFrame:
        files = [(method, seed, Path(folder) / place(method, seed)) for method in methods for seed in values["seeds"]]
        return pd.concat([load_csv(file).assign(method=method, seed=seed) for method, seed, file in files], ignore_index=True)

    return RingResults(
        data_set=f"a ring of {law.modes} Gaussians",
        methods=methods,
        curves=stacked(layout.curve),
        snapshots=stacked(layout.mismatch),
        floor=teacher["sliced_w2_floor"],
        teacher=teacher["sliced_w2_teacher"],
        evaluation=section(RingEvaluation, "evaluation", path),
    )


def end_points(results: RingResults, methods: list[str], count: str) -> tuple[int, "pd.Series[float]"]:
    """The largest `count` (update, or total_updates: recording charged) that all curves reach, and there the mean of the last
    evaluations of each (method, seed)."""
    rows = results.curves[results.curves["method"].isin(methods)]
    common = rows.groupby(["method", "seed"])[count].max().min()
    last = rows[rows[count] <= common].sort_values(count).groupby(["method", "seed"]).tail(results.evaluation.window)
    return int(common), last.groupby(["method", "seed"])["sliced_w2"].mean()


def ring_data(results: RingResults) -> pd.DataFrame:
    """A row per panel, method and update: panel, method, update, total_updates, node, mean, min, max, n_seeds, floor, teacher."""
    by, also = ["method", "update"], ("total_updates", "node")
    start = results.snapshots[results.snapshots["update"] <= results.evaluation.detour_updates]
    last, ends = end_points(results, results.methods, "update")
    parts = {
        "convergence": over_seeds(results.curves, by, "sliced_w2", also),
        "start": over_seeds(start, by, "sliced_w2", also),
        **{measure: over_seeds(results.snapshots, by, f"{measure}_mean", also) for measure in ("raw", "excess", "difference")},
        "end": over_seeds(ends.loc[results.methods].reset_index().assign(update=last), by, "sliced_w2"),
    }
    table = pd.concat([rows.assign(panel=panel) for panel, rows in parts.items()], ignore_index=True)
    columns = ["panel", *by, *also, "mean", "min", "max", "n_seeds"]
    return table[columns].assign(floor=results.floor, teacher=results.teacher)


def ring_look(method: str) -> Look:
    """A method's look: the house's own, or that of a control of this suite."""
    return LOOKS.get(method) or CONTROLS.get(method) or look(method)


def ring_label(method: str) -> str:
    """A method's name in the figure and in text."""
    return ring_look(method).label if method in CONTROLS else label(method)


def draw_ring(data: pd.DataFrame, sentence: str) -> Figure:
    """Five panels and the legend in the place of a sixth; `sentence` stands under them."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.subplots(2, 3).flatten()
    for axes, (panel, (title, across, up)) in zip(grid, PANELS.items(), strict=False):
        rows = data[data["panel"] == panel]
        if panel == "end":
            _draw_ends(axes, rows)
        else:
            _draw_curves(axes, rows, "total_updates" if panel == "convergence" else "update")
        axes.set(title=title, xlabel=across, ylabel=up)
        if panel in MEASURES:
            axes.set_xscale("function", functions=(np.sqrt, np.square))  # the nodes' part of the training would fill a sixth of the axis
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_xlim(left=0)
    grid[-1].axis("off")
    grid[-1].legend(handles=methods_of(data[data["panel"] == "convergence"], ring_look), loc="center")
    figure.supxlabel("\n".join(textwrap.wrap(sentence, 170)), fontsize=8)
    return figure


def _draw_curves(axes: Axes, rows: pd.DataFrame, x: str) -> None:
    curves_of(rows, x, ring_look).on(axes).plot()
    log_if_wide(axes, rows["min"])


def _draw_ends(axes: Axes, rows: pd.DataFrame) -> None:
    """A method a line: the mean and the range over seeds, with the teacher's own distance and the floor."""
    rows = rows.assign(place=range(len(rows)))
    plot = over(rows.rename(columns={"min": "low", "max": "high"}), "mean", ring_look)
    ends = {"y": "place", "xmin": "low", "xmax": "high"}
    plot = plot.add(so.Range(linewidth=3, alpha=0.4, linestyle="-"), orient="y", legend=False, **ends)
    plot.add(so.Dot(), y="place", legend=False).on(axes).plot()
    for value, name, line in ((rows["teacher"].iloc[0], "teacher", "--"), (rows["floor"].iloc[0], "floor", ":")):
        axes.axvline(value, color="#444444", linewidth=1, linestyle=line)
        axes.annotate(f" {name}", (value, len(rows) - 0.45), fontsize=8, color="#444444", va="center")
    axes.set_yticks([])  # the legend beside it names the methods
    axes.set_ylim(len(rows) - 0.2, -0.6)
