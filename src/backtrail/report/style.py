"""How figures look, and how they become the same bytes on every run.

seaborn draws: `over` gives a plot in which every method has its look, and a figure adds seaborn's marks to it. Nothing belongs to pyplot: a
figure is an object that is drawn and saved inside one style context.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from seaborn import axes_style, plotting_context

from backtrail.artifacts import atomic_write
from backtrail.report.names import Look, look
from backtrail.report.short_ids import short_id

FORMATS = ("png", "svg", "pdf")

THEME: dict[str, Any] = {
    **axes_style("ticks"),
    **plotting_context("paper"),
    "font.family": "DejaVu Sans",  # comes with matplotlib: seaborn's own choice depends on what a machine has
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 3.2,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "savefig.dpi": 150,
    "svg.hashsalt": "backtrail",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}
# Dates and version strings would make two renderings differ; None leaves the field out.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
}
ORIGIN = {"png": "Source", "svg": "Source", "pdf": "Subject"}  # the field of each format that says what a picture was made from
BAND = so.Band(alpha=0.18)  # minimum to maximum over seeds


@contextmanager
def drawing() -> Iterator[None]:
    """Style context of every figure: matplotlib's own defaults (no user file), then ours."""
    with matplotlib.style.context(["default", THEME]):
        yield


def save_figure(draw: Callable[[], Figure], stem: Path) -> None:
    """Draw once and write `stem`.png, .svg and .pdf, the same bytes on every run with the same library versions.

    Each carries in its metadata the short id of its data, `stem`.csv, where that has been written.
    """
    data = stem.with_suffix(".csv")
    origin = f"backtrail why {short_id(data)}" if data.is_file() else None
    with drawing():
        figure = draw()
        for kind in FORMATS:
            about = METADATA[kind] | {ORIGIN[kind]: origin}
            atomic_write(
                stem.with_suffix(f".{kind}"), lambda file, kind=kind, about=about: figure.savefig(file, format=kind, metadata=about)
            )


def over(data: pd.DataFrame, x: str, looks: Callable[[str], Look] = look, by: str = "method") -> so.Plot:
    """A plot of `mean` over column `x`, from `min` to `max` where the table has them; each value of column `by` has its look."""
    spread = {f"y{end}": end for end in ("min", "max") if end in data}
    found = {name: looks(str(name)) for name in data[by].unique()}
    scales = {
        "color": so.Nominal({name: of.colour for name, of in found.items()}),
        "marker": so.Nominal({name: of.marker for name, of in found.items()}),
        "linestyle": so.Nominal({name: of.line for name, of in found.items()}),
    }
    return so.Plot(data, x=x, y="mean", **spread, color=by, marker=by, linestyle=by).scale(**scales).theme(THEME)


def lines(plot: so.Plot, n_points: int) -> so.Plot:
    """Lines with a band from minimum to maximum; of many points about twelve are marked."""
    return plot.add(BAND, legend=False).add(so.Line(artist_kws={"markevery": max(1, n_points // 12)}), legend=False)


def floor_line(axes: Axes, value: float, lowest: float) -> None:
    """The real-against-real floor on the y axis, or only in the legend where it lies so low that it would flatten the curves.

    `lowest` is the smallest value that the figure shows.
    """
    style = {"color": "#444444", "linewidth": 1, "linestyle": (0, (1, 2))}
    if value < lowest / 2.5:
        axes.plot([], [], **style, label=f"Floor, real against real: {value:.3g}, below the axis")
    else:
        axes.axhline(value, **style, label=f"Floor, real against real: {value:.3g}")


def log_if_wide(axes: Axes, values: pd.Series) -> None:
    """A logarithmic y axis with plain numbers on it where positive values span more than a factor of five.

    After the drawing: seaborn 0.13 transforms the points alone and not the ends of bars and bands.
    """
    least, most = values.min(), values.max()
    if least <= 0 or most <= 5 * least:
        return
    # Within two decades the powers of ten alone leave an axis with one or two labels.
    marked = (1, 2, 3, 5) if most < 200 * least else (1,)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=marked))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def handle(of: Look, alone: bool = False) -> Line2D:
    """A method in the legend: its line and marker, or the marker alone."""
    return Line2D([], [], color=of.colour, marker=of.marker, linestyle="none" if alone else of.line, label=of.label)


def legend_below(figure: Figure, handles: list[Line2D], columns: int) -> None:
    """One legend under the axes, where it covers no data, in as many columns (at most `columns`) as the figure is wide enough for.

    What else the first axes name (a floor, a baseline) follows the handles.
    """
    handles = handles + figure.axes[0].get_legend_handles_labels()[0]
    for n in range(min(columns, len(handles)), 0, -1):
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=n)
        if n == 1 or legend.get_window_extent().width < 0.97 * figure.bbox.width:
            return
        legend.remove()
