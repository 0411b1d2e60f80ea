"""Figures of the finished students: quality against NFE (SFD, Fig. 6), quality against fine-tuning cost (SFD, Fig. 1), sample grids.

Each figure is two functions: `*_data` makes the tidy table that is also written as CSV, `draw_*` draws that table and nothing else.
"""

import hashlib

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from backtrail.errors import UserError
from backtrail.report.collect import Suite, archive_metadata, costs, floor, images, of_metric, quality, unguided
from backtrail.report.over_training import over_seeds, seeds_sentence
from backtrail.report.style import floor_line, legend_below, log_if_wide, log_ticks, look, metric_label


def nfe_data(suite: Suite) -> pd.DataFrame:
    """The table metric over NFE: metric, kind, method, nfe, trained, mean, min, max, n_seeds, floor."""
    metric = suite.report.metric
    rows = of_metric(unguided(quality(suite)), metric)
    data = over_seeds(rows, ["metric", "kind", "method", "nfe", "trained"], "value").assign(floor=floor(suite, metric))
    order = {method: i for i, method in enumerate(data["method"].unique())}
    return data.sort_values(
        ["method", "nfe"], key=lambda column: column.map(order) if column.name == "method" else column, ignore_index=True
    )


def draw_nfe(data: pd.DataFrame) -> Figure:
    """SFD, Fig. 6: quality against the number of function evaluations; open markers where a student was not trained for that number."""
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axes = figure.subplots()
    for method, rows in data.groupby("method", sort=False):
        of = look(str(method))
        axes.plot(rows["nfe"], rows["mean"], color=of.colour, linestyle=of.line if len(rows) > 1 else "none", zorder=2)
        errors = np.abs(rows[["min", "max"]].to_numpy().T - rows["mean"].to_numpy())
        axes.errorbar(rows["nfe"], rows["mean"], yerr=errors, fmt="none", ecolor=of.colour, elinewidth=1, capsize=2.5, zorder=2)
        face = np.where(rows["trained"], of.colour, "white")
        axes.scatter(rows["nfe"], rows["mean"], s=34, marker=of.marker, c=list(face), edgecolors=of.colour, linewidths=1.3, zorder=3)
        line = of.line if len(rows) > 1 else "none"
        axes.plot([], [], color=of.colour, marker=of.marker, linestyle=line, label=of.label)
    if not data["trained"].all():
        axes.plot([], [], color="#444444", marker="o", markerfacecolor="white", linestyle="none", label="Open marker: NFE not trained for")
    floor_line(axes, data["floor"].iloc[0], data["min"].min())
    ticks = sorted(set(data["nfe"]))
    if ticks[-1] > 6 * ticks[0]:
        shown = [tick for i, tick in enumerate(ticks) if i == 0 or tick > 1.1 * ticks[i - 1] or tick == ticks[-1]]
        log_ticks(axes, shown, [str(tick) for tick in shown])
    else:
        axes.set_xticks(ticks)
    axes.set_xlabel("NFE (network forwards per image)")
    axes.set_ylabel(f"{metric_label(data['metric'].iloc[0])} (lower is better)")
    log_if_wide(axes, data["min"])
    legend_below(figure, axes, 3)
    return figure


def nfe_caption(data: pd.DataFrame) -> str:
    """What the figure shows, with its seeds."""
    seeds = seeds_sentence(data[data["kind"] == "student"])
    return (
        f"{metric_label(data['metric'].iloc[0])} against NFE, for the teacher's solvers and the students. Students: mean, bars from "
        f"minimum to maximum over {seeds}; the teacher is one model. Open markers: the student was not trained for that NFE. Dotted line: "
        "what the metric reads for real images against real images at this sample size. Compare SFD, Fig. 6."
    )


def cost_data(suite: Suite) -> pd.DataFrame:
    """Quality against cost: metric, kind, method, nfe, cost (F, mean over seeds; 0 for solvers), mean, min, max, n_seeds.

    Students at the NFE they were trained for, and solvers at no more NFE than those: the paper's figure is about fast sampling.
    """
    data = nfe_data(suite)
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
    for height, nfe in sorted(zip(heights, nfes, strict=True)):
        if groups and height - groups[-1][-1][0] < near:
            groups[-1].append((height, nfe))
        else:
            groups.append([(height, nfe)])
    return [(float(np.mean([h for h, _ in group])), ", ".join(str(n) for n in sorted(n for _, n in group))) for group in groups]


def draw_cost(data: pd.DataFrame) -> Figure:
    """SFD, Fig. 1: quality against what fine-tuning cost, solvers at cost 0, on a logarithmic axis that is shifted to show them."""
    shift, most = cost_shift(data), data["cost"].max()
    solvers = list(data.loc[data["cost"] == 0, "method"].unique())
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axes = figure.subplots()
    for method, rows in data.groupby("method", sort=False):
        of = look(str(method))
        errors = np.abs(rows[["min", "max"]].to_numpy().T - rows["mean"].to_numpy())
        # Solvers stand side by side around cost 0: on one line their points would cover one another.
        aside = 1.3 ** (solvers.index(method) - (len(solvers) - 1) / 2) if method in solvers else 1.0
        x = (rows["cost"] + shift) * aside
        axes.errorbar(x, rows["mean"], yerr=errors, fmt=of.marker, color=of.colour, markersize=6, elinewidth=1, capsize=2.5)
        axes.plot([], [], of.marker, color=of.colour, markersize=6, label=of.label)
        for place_y, text in joined_labels(rows["mean"], rows["nfe"], near=0.03 * (data["max"].max() - data["min"].min())):
            place = (x.iloc[0], place_y)
            axes.annotate(text, place, (6, 0), textcoords="offset points", va="center", fontsize=7.5, color="#333333")
    axes.plot([], [], marker="$n$", linestyle="none", color="#333333", label="Number beside a point: NFE")
    if solvers:
        axes.axvspan(0, shift * 1.3 ** (len(solvers) / 2 + 0.5), color="#f0f0f0", linewidth=0, zorder=0)
    cheapest = data.loc[data["cost"] > 0, "cost"].min()
    round_costs = [base * 10.0**k for k in range(13) for base in (1, 2, 5) if 0.45 * cheapest < base * 10.0**k <= 1.5 * most]
    log_ticks(axes, [shift, *(shift + cost for cost in round_costs)], ["0", *(f"{cost:,.0f}" for cost in round_costs)])
    axes.set_xlim(shift / 1.3 ** (len(solvers) / 2 + 0.7), (most + shift) * 1.5)
    axes.set_xlabel(f"Fine-tuning cost (F, network forwards on one batch; logarithmic after adding {shift:,.0f} F)")
    axes.set_ylabel(f"{metric_label(data['metric'].iloc[0])} (lower is better)")
    log_if_wide(axes, data["min"])
    legend_below(figure, axes, 3)
    return figure


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
    teacher, first = "results/samples/teacher.safetensors", suite.seeds[0]
    plan = [("Real images (test set)", "data/dataset.safetensors", "test_images", "stage `dataset`")]
    for row in suite.report.sample_solvers:
        solver, _, nfe = row.partition("/nfe")
        plan.append((f"{look(solver).label}, NFE {nfe}", teacher, row, "stage `teacher-samples`"))
    for method in suite.methods():
        source, maker = f"results/samples/{method}/seed{first}.safetensors", f"stage `samples` of {method}, seed {first},"
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
    names, columns = list(data["row"].unique()), data["column"].max() + 1
    shapes = {image.shape for image in data["pixels"]}
    if len(shapes) > 1:
        raise UserError(
            f"the sample archives hold images of different shapes ({', '.join(map(str, sorted(shapes)))}): run stage `samples` again"
        )
    cell, left = 0.52, 0.2 + 0.056 * max(map(len, names))  # inches
    figure = Figure(figsize=(left + cell * columns, cell * len(names)))
    grid = figure.subplots(
        len(names), columns, squeeze=False,
        gridspec_kw={"left": left / (left + cell * columns), "right": 1, "bottom": 0, "top": 1, "wspace": 0.04, "hspace": 0.04},
    )  # fmt: skip
    for line, name in zip(grid, names, strict=True):
        for axes, image in zip(line, data.loc[data["row"] == name, "pixels"], strict=True):
            axes.imshow(np.moveaxis(image, 0, -1).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_axis_off()
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    return figure


def samples_caption(data: pd.DataFrame) -> str:
    """What the rows and columns are."""
    seeds = pd.to_numeric(data["image_seed"], errors="coerce").dropna()
    which = f" (image seeds {seeds.min():.0f} to {seeds.max():.0f})" if len(seeds) else ""
    return (
        f"Uncurated samples. Every column below the first row starts from the same noise{which}, so columns can be compared down the page; "
        "the first row shows the first images of the test set. Students of the first training seed, at the NFE they were trained for."
    )
