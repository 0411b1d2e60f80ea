"""The figures of a published latent teacher: images with their captions, and each metric against evaluations and guidance."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from backtrail import layout
from backtrail.parameters.latent_suite import LatentSuite
from backtrail.report.collect import images
from backtrail.report.decoded_sets import draw_lines, pixel_digest, place_of
from backtrail.report.latent import latent_results, open_latent
from backtrail.report.mosaic import draw_images
from backtrail.report.names import literal
from backtrail.report.style import save_figure
from backtrail.report.text_figures import draw_samples
from backtrail.tables import save_csv

COLUMNS = 8  # images of each model, the first of its archive
DRAWN = 128  # pixels a side; the archive has them whole


def sample_rows(folder: Path, suite: LatentSuite) -> pd.DataFrame:
    """A row per image: row (the model's name), column, caption, source, key, image_seed, sha256 of the whole image, pixels [3, h, w]."""
    found: list[dict[str, Any]] = []
    for row in latent_results(folder).itertuples():
        teacher = row.kind == "teacher"
        source, key = place_of(row, suite.seeds[0])
        pixels, about = images(folder / source, key, min(COLUMNS, suite.evaluation.n_images), "stage `latent-samples`")
        told = f", w = {row.guidance:g}" if row.guidance != 1 else ""
        name = f"Teacher, {row.method}, NFE {row.nfe}{told}" if teacher else f"{row.method}, NFE {row.nfe}{told}"
        for column, image in enumerate(pixels):
            caption = about["captions"][column] if about["captions"] else ""
            place = {"row": name, "column": column, "caption": caption, "source": source, "key": key}
            found.append(place | {"image_seed": about["first_seed"] + column, "sha256": pixel_digest(image), "pixels": _small(image)})
    return pd.DataFrame(found)


def _small(image: np.ndarray) -> np.ndarray:
    """The image at DRAWN pixels a side, or as it is if it has no more."""
    if image.shape[-1] <= DRAWN:
        return image
    scaled = Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1))).resize((DRAWN, DRAWN), Image.Resampling.LANCZOS)
    return np.moveaxis(np.asarray(scaled), -1, 0)


def curve_rows(results: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The table of results by metric: metric, kind, method, guidance, nfe, mean, std."""
    keys = ["kind", "method", "guidance", "nfe"]
    parts = [results[keys].assign(metric=name, mean=results[f"{name}_mean"], std=results[f"{name}_std"]) for name in names]
    return pd.concat(parts, ignore_index=True)[["metric", *keys, "mean", "std"]]


def draw_curves(rows: pd.DataFrame) -> Figure:
    """A panel per metric over evaluations: a line per model and weight of guidance."""
    names = list(rows["metric"].unique())
    figure = Figure(figsize=(4.5 * len(names) + 2.5, 4), layout="constrained")
    grid = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(grid, names, strict=True):
        draw_lines(axes, rows[rows["metric"] == name].sort_values("nfe"))
        axes.set_title(literal(name))
        axes.set_xticks(sorted(rows["nfe"].unique()))
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def render_latent_figures(folder: str | Path = ".") -> None:
    """Write both figures as PNG, SVG and PDF with their data as CSV."""
    folder = Path(folder)
    suite = open_latent(folder)
    figures, rows = folder / layout.FIGURES, sample_rows(folder, suite)
    curves = curve_rows(latent_results(folder), suite.evaluation.names)
    save_csv(figures / "latent-samples.csv", rows.drop(columns="pixels"))
    drawn = rows.assign(row="   " + rows["row"])  # room for names of wide letters
    save_figure(lambda: draw_samples(drawn) if suite.prompts is not None else draw_images({"": drawn}), figures / "latent-samples")
    save_csv(figures / "latent-nfe.csv", curves)
    save_figure(lambda: draw_curves(curves), figures / "latent-nfe")
