"""The figure of a teacher's size and budget: how far its images are from real ones, over the images that it was trained on."""

from pathlib import Path

import pandas as pd
import seaborn.objects as so
from matplotlib.figure import Figure

from backtrail.artifacts import load_json
from backtrail.errors import UserError
from backtrail.parameters.scaling import Scaling
from backtrail.report.names import Look, metric_label
from backtrail.report.style import floor_line, handle, legend_below, log_if_wide, over

VALUES = Path("results/scaling")
COLOURS, MARKERS = ("#0077bb", "#cc3311", "#009988", "#ee7733", "#666666"), "os^Dv"


def scaling_data(p: Scaling, metric: str) -> pd.DataFrame:
    """A row for each size and budget: size, weights (count), images seen, nfe, metric, mean, floor (real images, as many of them), loss,
    source (the file that was read).

    Raises UserError if a teacher was not measured in `metric`.
    """
    rows = []
    for size in p.channels:
        for steps in p.steps:
            source = VALUES / f"{size}-{steps}.json"
            found = load_json(source)
            values = found["values"]
            if metric not in values["teacher"]:
                raise UserError(f"report.metric = {metric}: {size}-{steps} was measured in {', '.join(values['teacher'])}")
            row = {"size": size, "weights": found["weights"], "images": found["images"], "nfe": found["nfe"], "metric": metric}
            measured = {"mean": values["teacher"][metric], "floor": values["real"][metric], "loss": found["loss"]}
            rows.append(row | measured | {"source": source.as_posix()})
    return pd.DataFrame(rows)


def draw_scaling(data: pd.DataFrame) -> Figure:
    """A line for each size."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    looks = {
        size: Look(f"{size}, {weights / 1e3:,.0f} k weights", COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], "-")
        for i, (size, weights) in enumerate(data.drop_duplicates("size")[["size", "weights"]].itertuples(index=False))
    }
    plot = over(data, "images", looks.__getitem__, by="size").add(so.Line(), legend=False)
    across = so.Continuous(trans="log").tick(at=sorted(set(data["images"]))).label(like="{x:,.0f}")
    plot.scale(x=across).label(
        x="Images seen in training", y=f"{metric_label(data['metric'].iloc[0])} at NFE {data['nfe'].iloc[0]} (lower is better)"
    ).on(figure).plot()
    floor_line(figure.axes[0], data["floor"].iloc[0], data["mean"].min())
    log_if_wide(figure.axes[0], data["mean"])
    legend_below(figure, [handle(of) for of in looks.values()], 3)
    return figure
