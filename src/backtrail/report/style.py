"""How figures look, and how they become the same bytes on every run.

Each method has one colour, marker and line everywhere. The colours stay apart for colour-blind readers (Paul Tol's vibrant scheme), the
markers and lines stay apart in grey. No pyplot: a figure is an object that is drawn and saved inside one style context.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatter, NullFormatter, NullLocator

from backtrail.artifacts import atomic_write
from backtrail.report.short_ids import short_id

HIGHER_IS_BETTER = ("precision", "recall", "density", "coverage")
FORMATS = ("png", "svg", "pdf")

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 3.2,
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


@dataclass(frozen=True)
class Look:
    """One method's appearance in every figure."""

    label: str
    colour: str
    marker: str
    line: Any


LOOKS = {
    "diff-instruct": Look("Diff-Instruct", "#0077bb", "s", (0, (4, 1.5))),
    "disback": Look("DisBack", "#cc3311", "o", "-"),
    "trajectory": Look("Trajectory distillation (Alg. 1)", "#aa4499", "^", (0, (4, 1.5, 1, 1.5))),
    "sfd": Look("SFD", "#009988", "D", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
    "sfd-v": Look("SFD-v", "#ee7733", "v", "-"),
    "dpmpp-3m": Look("Teacher, DPM-Solver++(3M)", "#000000", "X", (0, (1, 1.2))),
    "heun": Look("Teacher, Heun", "#555555", "P", (0, (5, 2))),
    "heun-guided": Look("Teacher, Heun, guided", "#bbaa00", "H", (0, (5, 1, 1, 1))),
    "ipndm": Look("Teacher, iPNDM(4)", "#8c6d46", "*", (0, (1, 2, 4, 2))),
    "euler": Look("Teacher, Euler", "#888888", "p", (0, (3, 1.5, 1, 1.5))),
}
SPARE_COLOURS = ("#332288", "#117733", "#882255", "#ddaa33")
SPARE_MARKERS = ("<", ">", "h", "8")


def look(name: str) -> Look:
    """A method's look; one that has none of its own gets a spare that depends on its name alone, so that it is the same everywhere."""
    if name in LOOKS:
        return LOOKS[name]
    pick = zlib.crc32(name.encode())
    return Look(literal(name[:40]), SPARE_COLOURS[pick % 4], SPARE_MARKERS[pick // 4 % 4], (0, (2, 1)))


def label(name: str) -> str:
    """A method's name in tables and text."""
    return LOOKS[name].label if name in LOOKS else name


def literal(text: str) -> str:
    """Text that matplotlib draws as it stands: no mathematics, no legend entry hidden by a leading underscore."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def metric_label(metric: str) -> str:
    """`fd_efficientnet_lite0` -> `FD-EfficientNet-Lite0`. A distance in other features than Inception's is never called FID."""
    kinds = {"fd": "FD", "kid": "KID", "fid": "FID"} | {name: name.capitalize() for name in HIGHER_IS_BETTER}
    features = {"efficientnet_lite0": "EfficientNet-Lite0", "classifier": "classifier", "inception": "Inception"}
    features["inception_clean"] = "Inception, clean-fid's resizing"
    kind, _, extractor = metric.removesuffix("_best").partition("_")
    best = ", smallest of the samplings" if metric.endswith("_best") else ""
    return f"{kinds.get(kind, kind)}-{features.get(extractor, extractor)}{best}"


def higher_is_better(metric: str) -> bool:
    """False for distances."""
    return metric.partition("_")[0] in HIGHER_IS_BETTER


@contextmanager
def drawing() -> Iterator[None]:
    """Style context of every figure: matplotlib's own defaults (no user file), then ours."""
    with matplotlib.style.context(["default", RC]):
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


def band(axes: Axes, rows: pd.DataFrame, x: str, of: Look, name: str | None = None, **line: Any) -> None:
    """Mean as a line and minimum to maximum over seeds as a band, from the columns `mean`, `min`, `max`."""
    axes.fill_between(rows[x], rows["min"], rows["max"], color=of.colour, alpha=0.18, linewidth=0)
    every = max(1, len(rows) // 12)
    axes.plot(rows[x], rows["mean"], color=of.colour, marker=of.marker, linestyle=of.line, label=name or of.label, markevery=every, **line)


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
    """A logarithmic y axis with plain numbers on it where positive values span more than a factor of eight."""
    positive = values[values > 0]
    if len(positive) < len(values) or positive.max() <= 8 * positive.min():
        return
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    # Within two decades the powers of ten alone leave an axis with one or two labels.
    if positive.max() < 200 * positive.min():
        axes.yaxis.set_minor_formatter(_SomeMinor(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))
    else:
        axes.yaxis.set_minor_formatter(NullFormatter())


class _SomeMinor(LogFormatter):
    """Labels 2, 3 and 5 times a power of ten."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if round(x / 10 ** np.floor(np.log10(x) + 1e-9), 6) in (2, 3, 5) else ""


def log_ticks(axes: Axes, ticks: list[float], labels: list[str]) -> None:
    """A logarithmic x axis that has ticks at the given places alone."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(labels)


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """One legend under the axes, where it covers no data, in as many columns (at most `columns`) as the figure is wide enough for."""
    handles, labels = axes.get_legend_handles_labels()
    for n in range(min(columns, len(handles)), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=n)
        if n == 1 or legend.get_window_extent().width < 0.97 * figure.bbox.width:
            return
        legend.remove()
