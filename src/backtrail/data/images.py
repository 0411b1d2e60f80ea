"""An archive or a folder of images as a data set: splits and classes from its folders, or labels from `dataset.json`."""

import logging
from collections.abc import Iterator
from functools import partial

import numpy as np

from backtrail.data.archives import Members
from backtrail.data.decode import Shape, decode, decode_upright
from backtrail.data.label_file import labels_from_file
from backtrail.data.layout import Layout, layout_of
from backtrail.data.pack import Chunk, Images, Rows, chunk_rows
from backtrail.errors import UserError

log = logging.getLogger(__name__)


def image_set(members: Members, held_out: int = 0) -> Images:
    """The images of an archive or a folder as a data set.

    If every image lies in `train/`, `val/` or `test/`, those are the splits; without test images `held_out` of them are drawn. Labels
    come from `dataset.json` if there is one (null = no labels), else from the first folder below the split (none = no labels). Test images
    come in a drawn order: that of their names is one of classes, and what measures the first ones would see a class or two. What is left
    out is said in a warning.
    """
    layout = layout_of(members)
    layout.warn(members.path)
    shape = first_image(members, layout).shape
    labels, class_names = labels_of(members, layout)
    in_test = layout.in_test
    if in_test is None:
        in_test = _drawn(len(layout.rows), held_out, members)
    elif held_out:
        log.warning("%s: data.held_out = %d is not used, because there are test images", members.path, held_out)
    deliver = partial(_rows, members, shape)
    test = np.flatnonzero(in_test)[_permutation(int(in_test.sum()), "test order")]
    return Images(
        shape=shape,
        n_classes=len(class_names),
        train=deliver(layout.rows[~in_test], labels[~in_test]),
        test=deliver(layout.rows[test], labels[test]),
    )


def first_image(members: Members, layout: Layout) -> np.ndarray:
    """The image whose shape all other ones must have."""
    return decode(members.read(int(layout.rows[0])), name_of(members, layout.rows[0]))


def labels_of(members: Members, layout: Layout) -> tuple[np.ndarray, list[str]]:
    """Labels int64 [n] of the layout's images, and what the classes are called (none: no classes)."""
    if layout.label_row is not None:
        labels, n_classes = labels_from_file(members, layout.rows, layout.label_row, layout.root)
        return labels, [str(k) for k in range(n_classes)]
    folders, numbers = np.unique(layout.folders, return_inverse=True)
    if len(folders) == 1:  # all in one folder, or in none: no classes
        return np.zeros(len(layout.rows), np.int64), []
    if folders[0] == b"":
        stray = members.names[layout.rows[int(np.argmin(numbers))]].decode()
        raise UserError(f"{members.path}: {stray} lies in no class folder, others do ({folders[1].decode()}): sort it in")
    return numbers.astype(np.int64), [folder.decode() for folder in folders]


def name_of(members: Members, row: int) -> str:
    """What a sentence calls an image."""
    return f"{members.path}: {members.names[row].decode()}"


def _rows(members: Members, shape: Shape, rows: np.ndarray, labels: np.ndarray) -> Rows:
    def chunks() -> Iterator[Chunk]:
        step, n_turned = chunk_rows(shape), 0
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            images = np.empty((len(some), *shape), np.uint8)
            for k, row in enumerate(some):
                decoded = decode_upright(members.read(int(row)), name_of(members, row), shape)
                images[k] = decoded.pixels
                n_turned += decoded.turned
            yield images, labels[start : start + step]
        if n_turned:
            log.warning("%s: %d images are turned as their EXIF orientation says (EDM's own tool ignores it)", members.path, n_turned)

    return Rows(len(rows), chunks)


def _drawn(n_images: int, held_out: int, members: Members) -> np.ndarray:
    if held_out >= n_images:
        raise UserError(f"data.held_out = {held_out}: {members.path} holds {n_images} images, at least one must be left to train on")
    drawn = np.zeros(n_images, bool)
    drawn[_permutation(n_images, "held out")[:held_out]] = True
    return drawn


def _permutation(n: int, purpose: str) -> np.ndarray:
    import torch  # here: the stage `fetch`, which reads names and bytes alone, need not load it

    from backtrail import randomness

    return torch.randperm(n, generator=randomness.generator(0, purpose)).numpy()
