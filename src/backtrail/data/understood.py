"""What the reader of images makes of the user's own images, before anything is copied: for `check` and `plan` to print."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backtrail.data.archives import Members, open_zip
from backtrail.data.folders import open_folder
from backtrail.data.images import first_image, labels_of
from backtrail.data.layout import Layout, layout_of
from backtrail.errors import UserError
from backtrail.parameters.data import Data

SHOWN = 12  # classes that are listed one by one


@dataclass(frozen=True, kw_only=True)
class Understood:
    """A data set as it was understood: counts of images by split and by class, the first image's shape [C, H, W], and what is left out."""

    path: Path
    n_images: int
    shape: tuple[int, int, int]
    classes: dict[str, int]
    splits: dict[str, int]
    left_out: dict[str, int]

    def lines(self) -> list[str]:
        """The summary, a line for each thing."""
        channels, height, width = self.shape
        counts = [f"{name} {n}" for name, n in self.classes.items()]
        classes = f"{len(counts)}: {', '.join(counts[:SHOWN])}{', ...' if len(counts) > SHOWN else ''}" if counts else "none"
        return [
            f"{self.path}: {self.n_images} images, the first is {height}x{width} {'grey' if channels == 1 else 'RGB'}",
            f"classes {classes}",
            f"splits {', '.join(f'{name} {n}' for name, n in self.splits.items())}",
            f"left out {'; '.join(f'{n} {reason}' for reason, n in self.left_out.items()) or 'nothing'}",
        ]


def own_images(data: Data) -> Members:
    """The user's own images where they lie. Raises UserError if `data.local` is no folder or no archive, as `data.name` has it."""
    place = Path(data.local)
    if data.name == "image-folder":
        if not place.is_dir():
            raise UserError(f"data.local = {data.local!r}: expected the folder of your images")
        return open_folder(place)
    if place.is_dir():
        place = place / "images.zip"
    if not place.is_file():
        raise UserError(f"data.local = {data.local!r}: expected the zip of your images")
    return open_zip(place)


def understood(data: Data) -> Understood | None:
    """How the user's own images are read; None for a data set of the registry, which is known. Raises UserError as the stages would.

    Only names, the label file and the first image are looked at, so that a folder of 70,000 images takes seconds.
    """
    if data.name not in ("image-folder", "image-zip"):
        return None
    members = own_images(data)
    layout = layout_of(members)
    labels, names = labels_of(members, layout)
    shape = first_image(members, layout).shape
    counts = np.bincount(labels, minlength=len(names))
    return Understood(
        path=members.path,
        n_images=len(layout.rows),
        shape=shape,
        classes={name: int(counts[k]) for k, name in enumerate(names)},
        splits=_splits(layout, data),
        left_out=layout.left_out,
    )


def _splits(layout: Layout, data: Data) -> dict[str, int]:
    n = len(layout.rows)
    n_test = data.held_out if layout.in_test is None else int(layout.in_test.sum())
    if n_test >= n:
        raise UserError(f"data.held_out = {n_test}: {data.local} holds {n} images, at least one must be left to train on")
    return {"train": n - n_test, "test" if layout.in_test is not None else "test (held out)": n_test}
