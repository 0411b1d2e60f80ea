"""The figures of text to images: images with their captions, and quality and alignment against evaluations and guidance.

The data of each figure is a table that is also written as CSV; what is drawn is that table and nothing else.
"""

import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from backtrail import layout
from backtrail.data.captions import CAPTIONS
from backtrail.layout import PARAMS_FILE
from backtrail.parameters.suite import read_suite
from backtrail.parameters.text_suite import TextSuite
from backtrail.report.collect import images
from backtrail.report.decoded_sets import draw_lines, pixel_digest, place_of
from backtrail.report.mosaic import CELL, INCHES_A_LETTER, draw_images
from backtrail.report.names import literal
from backtrail.report.style import save_figure
from backtrail.report.text import text_results
from backtrail.tables import save_csv

COLUMNS = 10  # images of each model, the first of its archive
LINES = 4  # of a caption under its column
PANELS = {
    "fd_garment_colour_classifier": "Frechet distance, own classifier",
    "pair_accuracy_seen": "Garment and colour right, seen pairs",
    "pair_accuracy_held_out": "The same, held-out pairs",
    "caption_score_own_towers_seen": "Caption score, own towers",
}


def sample_rows(folder: Path, suite: TextSuite) -> pd.DataFrame:
    """A row per image: row (the model's name), column, caption, source, key, image_seed, sha256, pixels uint8 [3, H, W].

    The teacher at each weight of guidance, in its most evaluations; each student of the first seed at each number and weight.
    """
    found: list[dict[str, Any]] = []
    table = text_results(folder).sort_values("nfe", kind="stable")
    teacher = table[table["kind"] == "teacher"].drop_duplicates("guidance", keep="last").sort_values("guidance")
    students = table[table["kind"] == "student"].sort_values(["guidance", "nfe"], kind="stable")
    ordered = [teacher, *(students[students["method"] == method] for method in suite.methods)]
    for row in pd.concat(ordered).itertuples():
        source, key = place_of(row, suite.seeds[0])
        pixels, about = images(folder / source, key, COLUMNS, "stage `text-samples`")
        told = f", w = {row.guidance:g}" if row.guidance != 1 else ""
        name = f"Teacher, {row.method}, NFE {row.nfe}" if row.kind == "teacher" else f"{row.method}, NFE {row.nfe}{told}"
        for column, image in enumerate(pixels):
            place = {"row": name, "column": column, "caption": CAPTIONS[about["captions"][column]], "source": source, "key": key}
            found.append(place | {"image_seed": about["first_seed"] + column, "sha256": pixel_digest(image), "pixels": image})
    return pd.DataFrame(found)


def draw_samples(rows: pd.DataFrame) -> Figure:
    """The rows of images, a model each, and under each column its caption."""
    figure = draw_images({"": rows})
    (width, height), names = figure.get_size_inches(), rows["row"].unique()
    below = 0.13 * LINES + 0.05
    figure.set_size_inches(width, height + below)
    for axes in figure.axes:  # what stood over the whole height stands over the captions
        box = axes.get_position()
        axes.set_position((box.x0, (box.y0 * height + below) / (height + below), box.width, box.height * height / (height + below)))
    for text in figure.texts:
        x, y = text.get_position()
        text.set_position((x, (y * height + below) / (height + below)))
    left = 0.2 + INCHES_A_LETTER * max(map(len, names))
    for row in rows[rows["row"] == names[0]].itertuples():
        caption = "\n".join(textwrap.wrap(row.caption, 9)[:LINES])
        at = (left + CELL * (row.column + 0.5)) / width
        figure.text(at, (below - 0.03) / (height + below), literal(caption), ha="center", va="top", fontsize=5.5)
    return figure


def curve_rows(results: pd.DataFrame) -> pd.DataFrame:
    """The table of results by metric: metric, kind, method, guidance, nfe, mean, std, floor."""
    keys = ["kind", "method", "guidance", "nfe"]
    parts = [
        results[keys].assign(metric=name, mean=results[f"{name}_mean"], std=results[f"{name}_std"], floor=results[f"floor_{name}"])
        for name in PANELS
    ]
    return pd.concat(parts, ignore_index=True)[["metric", *keys, "mean", "std", "floor"]]


def draw_curves(rows: pd.DataFrame) -> Figure:
    """A panel per metric over evaluations: a line per model and weight of guidance, and what reconstructions get."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    grid = figure.subplots(2, 2).flatten()
    for axes, (metric, title) in zip(grid, PANELS.items(), strict=True):
        of_metric = rows[rows["metric"] == metric]
        draw_lines(axes, of_metric)
        axes.axhline(of_metric["floor"].iloc[0], color="#444444", linewidth=1, linestyle="--", label="reconstructions (the floor)")
        axes.set_title(title)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def render_text_figures(folder: str | Path = ".") -> None:
    """Write both figures as PNG, SVG and PDF with their data as CSV."""
    folder, suite = Path(folder), read_suite(Path(folder) / PARAMS_FILE)
    assert isinstance(suite, TextSuite)
    figures, rows, curves = folder / layout.FIGURES, sample_rows(folder, suite), curve_rows(text_results(folder))
    save_csv(figures / "text-samples.csv", rows.drop(columns="pixels"))
    save_figure(lambda: draw_samples(rows), figures / "text-samples")
    save_csv(figures / "text-nfe.csv", curves)
    save_figure(lambda: draw_curves(curves), figures / "text-nfe")
