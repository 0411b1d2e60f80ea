"""Rows of images with a name each, as one picture.

torchvision's `make_grid` lays out the same pixels, and a test holds one against the other: to load torch would take longer than to draw.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from backtrail.report.names import literal

GAP = 1  # pixels between two images
CELL, HEAD = 0.5, 0.3  # inches: of an image, of a block's title
INCHES_A_LETTER = 0.056


def mosaic(pixels: list[np.ndarray], columns: int) -> np.ndarray:
    """Images [C, H, W], row by row, as one picture [height, width, C] with white gaps."""
    _, high, wide = pixels[0].shape
    whole = np.full((len(pixels) // columns * (high + GAP) - GAP, columns * (wide + GAP) - GAP, len(pixels[0])), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * (high + GAP), i % columns * (wide + GAP)
        whole[top : top + high, left : left + wide] = np.moveaxis(image, 0, -1)
    return whole


def draw_images(blocks: dict[str, pd.DataFrame]) -> Figure:
    """A block of rows per title (none where it is empty); each block's table has `row` (its name), `column` and `pixels`, row by row."""
    columns = max(rows["column"].max() + 1 for rows in blocks.values())
    names = {title: list(rows["row"].unique()) for title, rows in blocks.items()}
    left = 0.2 + INCHES_A_LETTER * max(len(name) for of in names.values() for name in of)
    width, height = left + CELL * columns, sum(CELL * len(of) + HEAD * bool(title) for title, of in names.items())
    figure = Figure(figsize=(width, height))
    top = height
    for title, rows in blocks.items():
        n_rows = len(names[title])
        top -= HEAD * bool(title) + CELL * n_rows
        axes = figure.add_axes((left / width, top / height, 1 - left / width, CELL * n_rows / height))
        axes.imshow(mosaic(list(rows["pixels"]), columns).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        figure.text(0.01, (top + CELL * n_rows + 0.08) / height, literal(title), fontsize=9, weight="bold")
        for i, name in enumerate(names[title]):
            figure.text(
                (left - 0.08) / width, (top + CELL * (n_rows - i - 0.5)) / height, literal(name), ha="right", va="center", fontsize=8
            )
    return figure
