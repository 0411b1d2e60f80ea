"""Samples along the degradation path and back (DisBack, Fig. 3): the nodes as diffusion models, then the student at its snapshots."""

import hashlib

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from backtrail.report.collect import Suite, archive_metadata, images
from backtrail.report.style import label, literal, look

GAP = 1  # pixels between two images


def degradation_data(suite: Suite) -> pd.DataFrame:
    """Every image: method, key, node, step and loss_student (of a node), update (of a snapshot), column, image_seed, sampler, source,
    sha256, and pixels (uint8 [C, H, W], not in CSV).

    The paths and students of the first seed. `node` of a snapshot is the target of its last update.
    """
    rows = []
    for method in suite.methods("score"):
        source, maker = f"results/path-samples/{method}.safetensors", f"stage `path-samples` of {method}"
        metadata = archive_metadata(suite.folder / source, maker)
        for row in metadata["rows"]:
            pixels, _ = images(suite.folder / source, row["key"], suite.report.sample_columns, maker)
            for column, image in enumerate(pixels):
                place = {"column": column, "image_seed": metadata["first_seed"] + column, "sampler": metadata["sampler"], "source": source}
                digest = hashlib.sha256(image.tobytes()).hexdigest()
                rows.append({"method": method, **row, **place, "sha256": digest, "pixels": image})
    columns = ["method", "key", "node", "step", "loss_student", "update", "column", "image_seed", "sampler", "source", "sha256", "pixels"]
    return pd.DataFrame(rows, columns=columns).astype({"step": "Int64", "update": "Int64"})


def row_name(row: pd.Series) -> str:
    """What a row shows: a node with its place on the path, or the student with its update and target."""
    target = "teacher" if row["node"] == 0 else f"node {row['node']}"
    if not pd.isna(row["update"]):
        return f"student, update {row['update']}, target {target}"
    at = "" if row["node"] == 0 else f", step {row['step']}"
    return f"{target}{at}, path loss {row['loss_student']:.3g}"


def mosaic(pixels: list[np.ndarray], columns: int) -> np.ndarray:
    """Images [C, H, W], row by row, as one picture [height, width, C] with white gaps."""
    _, high, wide = pixels[0].shape
    whole = np.full((len(pixels) // columns * (high + GAP) - GAP, columns * (wide + GAP) - GAP, len(pixels[0])), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * (high + GAP), i % columns * (wide + GAP)
        whole[top : top + high, left : left + wide] = np.moveaxis(image, 0, -1)
    return whole


def draw_degradation(data: pd.DataFrame) -> Figure:
    """A block a method: down the path from the teacher to the last node, then the student's way back from first to last snapshot."""
    columns = data["column"].max() + 1
    blocks = [rows for _, rows in data.groupby("method", sort=False)]
    n_rows = [rows["key"].nunique() for rows in blocks]
    cell, left, head = 0.46, 2.5, 0.3  # inches
    figure = Figure(figsize=(left + cell * columns, sum(cell * n + head for n in n_rows)))
    top = figure.get_figheight()
    for rows, n in zip(blocks, n_rows, strict=True):
        top -= head + cell * n
        whole, width = figure.get_figheight(), figure.get_figwidth()
        axes = figure.add_axes((left / width, top / whole, 1 - left / width, cell * n / whole))
        shown = mosaic(list(rows["pixels"]), columns)
        axes.imshow(shown.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        figure.text(0.01, (top + cell * n + 0.08) / whole, literal(label(str(rows["method"].iloc[0]))), fontsize=9, weight="bold")
        for i, (_, row) in enumerate(rows.drop_duplicates("key").iterrows()):
            figure.text((left - 0.08) / width, (top + cell * (n - i - 0.5)) / whole, row_name(row), ha="right", va="center", fontsize=7.5)
    return figure


def degradation_caption(data: pd.DataFrame) -> str:
    """What the rows are."""
    sampler, _, nfe = data["sampler"].iloc[0].partition("/nfe")
    return (
        "Samples along the degradation path and back. Nodes are sampled as diffusion models "
        f"({look(sampler).label}, NFE {nfe}), the student with one evaluation; every column starts from the same noise. A method that "
        "records no path has the teacher as its only node. Path loss: the node's denoising loss on samples of the initial student. First "
        "training seed, images not selected. Compare DisBack, Fig. 3."
    )
