"""Samples along the degradation path and back (DisBack, Fig. 3): the nodes as diffusion models, then the student at its snapshots."""

import hashlib

import pandas as pd
from matplotlib.figure import Figure

from backtrail import layout
from backtrail.report.collect import Suite, archive_metadata, images
from backtrail.report.mosaic import draw_images
from backtrail.report.names import label, look


def degradation_data(suite: Suite) -> pd.DataFrame:
    """Every image: method, key, node, step and loss_student (of a node), update (of a snapshot), column, image_seed, sampler, source,
    sha256, and pixels (uint8 [C, H, W], not in CSV).

    The paths and students of the first seed. `node` of a snapshot is the target of its last update.
    """
    rows = []
    for method in suite.methods("score"):
        source, maker = layout.path_samples(method), f"stage `path-samples` of {method}"
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


def draw_degradation(data: pd.DataFrame) -> Figure:
    """A block a method: down the path from the teacher to the last node, then the student's way back from first to last snapshot."""
    data = data.assign(row=[row_name(row) for _, row in data.iterrows()])
    return draw_images({label(str(method)): rows for method, rows in data.groupby("method", sort=False)})


def degradation_caption(data: pd.DataFrame) -> str:
    """What the rows are."""
    sampler, _, nfe = data["sampler"].iloc[0].partition("/nfe")
    return (
        "Samples along the degradation path and back. Nodes are sampled as diffusion models "
        f"({look(sampler).label}, NFE {nfe}), the student with one evaluation; every column starts from the same noise. A method that "
        "records no path has the teacher as its only node. Path loss: the node's denoising loss on samples of the initial student. First "
        "training seed, images not selected. Compare DisBack, Fig. 3."
    )
