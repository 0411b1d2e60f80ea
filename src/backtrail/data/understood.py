"""What the reader of images makes of the user's own images, before anything is copied: for `check` and `plan` to print."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backtrail.data.archives import Members, open_zip
from backtrail.data.decode import Shape, header_is_turned
from backtrail.data.folders import open_folder
from backtrail.data.images import first_image, labels_of, name_of
from backtrail.data.layout import Layout, layout_of
from backtrail.errors import UserError
from backtrail.parameters.data import Data

SHOWN = 12  # classes that are listed one by one
HEADERS = 50_000  # that are read, some seconds' worth; of more images those of evenly spread ones


@dataclass(frozen=True, kw_only=True)
class Understood:
    """A data set as it was understood: counts of images by split and by class, their shape [C, H, W], and what is left out.

    n_headers  images whose headers were read: all have that shape, and `n_turned` will be turned as their EXIF orientation says
    """

    path: Path
    n_images: int
    shape: Shape
    n_headers: int
    n_turned: int
    classes: dict[str, int]
    splits: dict[str, int]
    left_out: dict[str, int]

    def lines(self) -> list[str]:
        """The summary, a line for each thing."""
        channels, height, width = self.shape
        counts = [f"{name} {n}" for name, n in self.classes.items()]
        classes = f"{len(counts)}: {', '.join(counts[:SHOWN])}{', ...' if len(counts) > SHOWN else ''}" if counts else "none"
        looked_at = f" by the headers of {self.n_headers} of them" if self.n_headers < self.n_images else ""
        turned = f", {self.n_turned} turned as their EXIF orientation says" if self.n_turned else ""
        return [
            f"{self.path}: {self.n_images} images of {height}x{width} {'grey' if channels == 1 else 'RGB'}{looked_at}{turned}",
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

    Names, the label file, the first image and the headers of all are looked at (of at most HEADERS): 10,000 images take a second or two.
    """
    if data.name not in ("image-folder", "image-zip"):
        return None
    members = own_images(data)
    layout = layout_of(members)
    labels, names = labels_of(members, layout)
    shape = first_image(members, layout).shape
    rows = layout.rows[np.linspace(0, len(layout.rows) - 1, min(len(layout.rows), HEADERS)).astype(np.int64)]
    counts = np.bincount(labels, minlength=len(names))
    return Understood(
        path=members.path,
        n_images=len(layout.rows),
        shape=shape,
        n_headers=len(rows),
        n_turned=sum(_is_turned(members, int(row), shape) for row in rows),
        classes={name: int(counts[k]) for k, name in enumerate(names)},
        splits=_splits(layout, data),
        left_out=layout.left_out,
    )


def _is_turned(members: Members, row: int, shape: Shape) -> bool:
    with members.stream(row) as stream:
        return header_is_turned(stream, name_of(members, row), shape)


def _splits(layout: Layout, data: Data) -> dict[str, int]:
    n = len(layout.rows)
    n_test = data.held_out if layout.in_test is None else int(layout.in_test.sum())
    if n_test >= n:
        raise UserError(f"data.held_out = {n_test}: {data.local} holds {n} images, at least one must be left to train on")
    return {"train": n - n_test, "test" if layout.in_test is not None else "test (held out)": n_test}
