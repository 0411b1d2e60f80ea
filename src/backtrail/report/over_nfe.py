"""Figures of the finished students: quality against NFE (SFD, Fig. 6), quality against fine-tuning cost (SFD, Fig. 1), sample grids.

Each figure is two functions: `*_data` makes the tidy table that is also written as CSV, `draw_*` draws that table and nothing else.
"""

import hashlib

import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from backtrail import layout
from backtrail.errors import UserError
from backtrail.report.collect import Suite, archive_metadata, costs, floor, images, of_metric, quality
from backtrail.report.mosaic import draw_images
from backtrail.report.names import look, metric_label
from backtrail.report.seeds import over_seeds, seeds_sentence
from backtrail.report.style import floor_line, handle, legend_below, log_if_wide, over

HALF = {"fillstyle": "left", "markerfacecoloralt": "white"}  # the marker of what was sampled with guidance


def nfe_data(suite: Suite) -> pd.DataFrame:
    """The table metric over NFE: metric, kind, method, nfe, guidance, trained, mean, min, max, n_seeds, floor."""
    metric = suite.report.metric
    rows = of_metric(quality(suite), metric)
    rows = rows[~rows["method"].isin(suite.left_out)]
    data = over_seeds(rows, ["metric", "kind", "method", "nfe", "guidance", "trained"], "value").assign(floor=floor(suite, metric))
    order = {method: i for i, method in enumerate(data["method"].unique())}
    return data.sort_values(
        ["method", "guidance", "nfe"], key=lambda column: column.map(order) if column.name == "method" else column, ignore_index=True
    )


def is_reference(data: pd.DataFrame) -> pd.Series:
    """Which rows of `nfe_data` are the solvers of many evaluations, which the others are to come near: lines across the figure."""
    few = data[(data["kind"] == "student") & (data["guidance"] == 1)]
    return (data["kind"] == "teacher") & (data["nfe"] > 2 * (few["nfe"].max() if len(few) else data["nfe"].max()))


def draw_nfe(data: pd.DataFrame) -> Figure:
    """SFD, Fig. 6: quality against the number of function evaluations; open markers where a student was not trained for that number."""
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    across_all, near = data[is_reference(data)], data[~is_reference(data)]
    plain, guided = near[near["guidance"] == 1], near[near["guidance"] != 1]
    aside = so.Dodge(empty="drop", by=["color"])  # points of one NFE would cover one another
    plot = over(plain, "nfe").add(so.Line(marker=""), aside, legend=False).add(so.Range(linewidth=1, linestyle="-"), aside, legend=False)
    plot = plot.add(so.Dot(color="white", marker="o"), aside, legend=False)  # an open marker shows no line through it
    plot = plot.add(so.Dot(stroke=1.3), aside, fill="trained", legend=False).scale(fill=so.Nominal({True: True, False: False}))
    plot.scale(x=so.Continuous().tick(at=sorted(set(near["nfe"]))).label(like="{x:g}")).label(
        x="NFE (network forwards per image)", y=f"{metric_label(data['metric'].iloc[0])} (lower is better)"
    ).on(figure).plot()
    axes = figure.axes[0]
    counts = plain["method"].value_counts()
    handles = [handle(look(method), alone=counts[method] == 1) for method in plain["method"].unique()]
    for point in guided.itertuples():
        of, ends = look(point.method), [[point.mean - point.min], [point.max - point.mean]]
        ring = {"marker": of.marker, "color": of.colour, "markersize": 7, "linestyle": "none", **HALF}
        axes.errorbar(point.nfe, point.mean, ends, elinewidth=1, **ring)
        told = f"{of.label.removesuffix(', guided')}, guided (w = {point.guidance:g})"
        if told not in [one.get_label() for one in handles]:
            handles.append(Line2D([], [], label=told, **ring))
    for line in across_all.itertuples():
        of = look(line.method)
        weight = "" if line.guidance == 1 or "guided" in of.label else f", w = {line.guidance:g}"
        axes.axhline(line.mean, color=of.colour, linestyle=of.line, linewidth=1.2, zorder=1)
        handles.append(Line2D([], [], color=of.colour, linestyle=of.line, linewidth=1.2, label=f"{of.label}{weight}, NFE {line.nfe}"))
    floor_line(axes, data["floor"].iloc[0], data["min"].min())
    log_if_wide(axes, data["min"])
    if not plain["trained"].all():
        hollow = {"marker": "o", "markerfacecolor": "white", "linestyle": "none", "color": "#444444"}
        handles.append(Line2D([], [], label="Open marker: NFE not trained for", **hollow))
    legend_below(figure, handles, 3)
    return figure


def nfe_caption(data: pd.DataFrame) -> str:
    """What the figure shows, with its seeds."""
    seeds = seeds_sentence(data[data["kind"] == "student"])
    across = "; a line across: the teacher with many more evaluations" if is_reference(data).any() else ""
    guided = " Half-filled markers: sampled with guidance, which evaluates two branches a step." if (data["guidance"] != 1).any() else ""
    return (
        f"{metric_label(data['metric'].iloc[0])} against NFE, for the teacher's solvers and the students. Students: mean, bars from "
        f"minimum to maximum over {seeds}; the teacher is one model{across}. Open markers: the student was not trained for that NFE."
        f"{guided} Points of one NFE stand side by side. "
        "Dotted line: what the metric reads for real images against real images at this sample size. Compare SFD, Fig. 6."
    )


def cost_data(suite: Suite) -> pd.DataFrame:
    """Quality against cost: metric, kind, method, nfe, cost (F, mean over seeds; 0 for solvers), mean, min, max, n_seeds.

    Students at the NFE they were trained for, and solvers at no more NFE than those: the paper's figure is about fast sampling.
    """
    data = nfe_data(suite)
    data = data[data["guidance"] == 1]
    students = (data["kind"] == "student") & data["trained"]
    data = data[students | ((data["kind"] == "teacher") & (data["nfe"] <= data.loc[students, "nfe"].max()))]
    spent = costs(suite).groupby("method")["cost"].mean()
    cost = [0.0 if kind == "teacher" else spent[method] for kind, method in zip(data["kind"], data["method"], strict=True)]
    columns = ["metric", "kind", "method", "nfe", "cost", "mean", "min", "max", "n_seeds"]
    return data.assign(cost=cost)[columns].reset_index(drop=True)


def cost_shift(data: pd.DataFrame) -> float:
    """Where the logarithmic axis puts cost 0: about a twelfth of the cheapest student's cost, to one significant digit."""
    return float(f"{data.loc[data['cost'] > 0, 'cost'].min() / 12:.0e}")


def joined_labels(heights: pd.Series, nfes: pd.Series, near: float) -> list[tuple[float, str]]:
    """A label (height, text) per point of one method, from low to high; points closer than `near` share one, or they would overlap."""
    groups: list[list[tuple[float, int]]] = []
    for at, nfe in sorted(zip(heights, nfes, strict=True)):
        if groups and at - groups[-1][-1][0] < near:
            groups[-1].append((at, nfe))
        else:
            groups.append([(at, nfe)])
    return [(float(np.mean([h for h, _ in group])), ", ".join(str(n) for n in sorted(n for _, n in group))) for group in groups]


def draw_cost(data: pd.DataFrame) -> Figure:
    """SFD, Fig. 1: quality against what fine-tuning cost, solvers at cost 0, on a logarithmic axis that is shifted to show them."""
    shift, most = cost_shift(data), data["cost"].max()
    solvers = list(data.loc[data["cost"] == 0, "method"].unique())
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    # Solvers stand side by side around cost 0: on one line their points would cover one another.
    aside = {method: 1.3 ** (i - (len(solvers) - 1) / 2) for i, method in enumerate(solvers)}
    left = shift / 1.3 ** (len(solvers) / 2 + 0.7)
    data = data.assign(place=(data["cost"] + shift) * data["method"].map(aside).fillna(1.0))
    cheapest = data.loc[data["cost"] > 0, "cost"].min()
    round_costs = [base * 10.0**k for k in range(13) for base in (1, 2, 5) if 0.45 * cheapest < base * 10.0**k <= 1.5 * most]
    across = so.Continuous(trans="log").tick(at=[shift + cost for cost in (0.0, *round_costs)])
    plot = over(data, "place").add(so.Range(linewidth=1, linestyle="-"), group="nfe", legend=False).add(so.Dot(), legend=False)
    numbers = {"x": "place", "y": "mean", "text": "text", "halign": "side", "ymin": None, "ymax": None}
    plot = plot.add(so.Text(color="#333333", fontsize=7.5, offset=6), data=beside(data), legend=False, **numbers)
    plot.scale(x=across.label(like=lambda x, _: f"{x - shift:,.0f}"), text=None, halign=None).limit(x=(left, (most + shift) * 1.5)).label(
        x=f"Fine-tuning cost (F, network forwards on one batch; logarithmic after adding {shift:,.0f} F)",
        y=f"{metric_label(data['metric'].iloc[0])} (lower is better)",
    ).on(figure).plot()
    if solvers:
        figure.axes[0].axvspan(left, shift * 1.3 ** (len(solvers) / 2 + 0.5), color="#f0f0f0", linewidth=0, zorder=0)
    log_if_wide(figure.axes[0], data["min"])
    number = Line2D([], [], marker="$n$", linestyle="none", color="#333333", label="Number beside a point: NFE")
    legend_below(figure, [*(handle(look(method), alone=True) for method in data["method"].unique()), number], 3)
    return figure


def beside(data: pd.DataFrame) -> pd.DataFrame:
    """The text beside the points, a row each: method, place, mean, text, side; left of a point that has another close to its right."""
    near, rows = 0.03 * (data["max"].max() - data["min"].min()), []
    for (method, place), points in data.groupby(["method", "place"], sort=False):
        for at, text in joined_labels(points["mean"], points["nfe"], near):
            others = data[(data["place"] > place) & (data["place"] < 1.15 * place)]
            crowded = ((others["mean"] - at).abs() < near).any()
            rows.append({"method": method, "place": place, "mean": at, "text": text, "side": "right" if crowded else "left"})
    return pd.DataFrame(rows)


def cost_caption(data: pd.DataFrame) -> str:
    """What the figure shows, with the shift of its axis."""
    seeds = seeds_sentence(data[data["kind"] == "student"])
    return (
        f"{metric_label(data['metric'].iloc[0])} against the cost of fine-tuning, in network forwards on one batch (a forward counts 1, a "
        "forward and backward pass 3; recording and the teacher's trajectories included). The teacher's solvers cost nothing to fine-tune: "
        f"they stand side by side around 0 in the grey band, and {cost_shift(data):,.0f} F are added to every cost to show them on the "
        f"logarithmic axis. Students: mean, bars from minimum to maximum over {seeds}, each at the NFE it was trained for. "
        "Compare SFD, Fig. 1."
    )


def samples_data(suite: Suite) -> pd.DataFrame:
    """The grid's images: row, column, source (file), key, image_seed, sha256 of the pixels, and pixels (uint8 [C, H, W], not in CSV)."""
    teacher, first = layout.samples(), suite.seeds[0]
    plan = [("Real images (test set)", layout.DATASET, "test_images", "stage `dataset`")]
    for row in suite.report.sample_solvers:
        solver, _, nfe = row.partition("/nfe")
        plan.append((f"{look(solver).label}, NFE {nfe}", teacher, row, "stage `teacher-samples`"))
    for method in suite.methods():
        source, maker = layout.samples(method, first), f"stage `samples` of {method}, seed {first},"
        for nfe in sorted(archive_metadata(suite.folder / source, maker)["trained_nfe"]):
            plan.append((f"{look(method).label}, NFE {nfe}", source, f"student/nfe{nfe}", maker))
    rows = []
    for name, source, key, maker in plan:
        pixels, metadata = images(suite.folder / source, key, suite.report.sample_columns, maker)
        for column, image in enumerate(pixels):
            image_seed = metadata["first_seed"] + column if "first_seed" in metadata else ""
            rows.append((name, column, source, key, image_seed, hashlib.sha256(image.tobytes()).hexdigest(), image))
    return pd.DataFrame(rows, columns=["row", "column", "source", "key", "image_seed", "sha256", "pixels"])


def draw_samples(data: pd.DataFrame) -> Figure:
    """One row a method, one column an image seed; real images in the first row."""
    shapes = {image.shape for image in data["pixels"]}
    if len(shapes) > 1:
        raise UserError(
            f"the sample archives hold images of different shapes ({', '.join(map(str, sorted(shapes)))}): run stage `samples` again"
        )
    return draw_images({"": data})


def samples_caption(data: pd.DataFrame) -> str:
    """What the rows and columns are."""
    seeds = pd.to_numeric(data["image_seed"], errors="coerce").dropna()
    which = f" (image seeds {seeds.min():.0f} to {seeds.max():.0f})" if len(seeds) else ""
    return (
        f"Uncurated samples. Every column below the first row starts from the same noise{which}, so columns can be compared down the page; "
        "the first row shows the first images of the test set. Students of the first training seed, at the NFE they were trained for."
    )
