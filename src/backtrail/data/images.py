"""Encoded images to arrays, and an archive of them to a data set: splits and classes from folders, or labels from `dataset.json`."""

import io
import json
import logging
import re
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from backtrail import randomness
from backtrail.data.archives import LABEL_FILE, Members
from backtrail.data.pack import Chunk, Images, Rows, chunk_rows
from backtrail.errors import UserError

log = logging.getLogger(__name__)

ENDINGS = (b".png", b".jpg", b".jpeg")
FORMATS = ("PNG", "JPEG")  # what Pillow may try: its other readers stay unused
CHANNELS = {"L": 1, "RGB": 3}


def decode(data: bytes, what: str, shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """A PNG or JPEG as uint8 [C, H, W] (C = 1 grey, 3 RGB).

    Raises UserError if it is cut, of another mode, not square, or not of `shape`; size and mode are looked at before a pixel is decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            found = (CHANNELS.get(image.mode, 0), image.height, image.width)
            if not found[0]:
                raise UserError(f"{what} has mode {image.mode}, expected L (8-bit grey) or RGB: convert it")
            if found[1] != found[2] or shape not in (None, found):
                expected = "a square" if shape is None else "{}x{} with {} channels".format(*shape[1:], shape[0])
                raise UserError(f"{what} is {found[1]}x{found[2]} with {found[0]} channels, expected {expected}: crop or convert it")
            pixels = np.asarray(image)
    except UserError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{what} is no whole PNG or JPEG ({type(error).__name__}): get it again") from None
    return pixels[None] if found[0] == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def image_set(members: Members, held_out: int = 0) -> Images:
    """The images of an archive as a data set.

    If every image lies in `train/` or `test/`, those are the splits; else `held_out` of them are drawn as the test split. Labels come
    from `dataset.json` if there is one (null = no labels), else from the first folder below the split (none = no labels).
    """
    names = members.names
    rows = np.flatnonzero([name.lower().endswith(ENDINGS) and not _file_name(name).startswith(b".") for name in names])
    left_out = len(names) - len(rows) - (members.index(LABEL_FILE) is not None)
    if left_out:
        log.warning("%s: %d files are no images and are left out", members.path, left_out)
    if not len(rows):
        raise UserError(f"{members.path} holds no PNG or JPEG image")
    shape = decode(members.read(int(rows[0])), _what(members, rows[0]))
    in_test = _split(members, rows)
    labels, n_classes = _labels(members, rows, in_test is not None)
    if in_test is None:
        in_test = _drawn(len(rows), held_out, members)
    deliver = partial(_rows, members, shape.shape)
    return Images(
        shape=shape.shape,
        n_classes=n_classes,
        train=deliver(rows[~in_test], labels[~in_test]),
        test=deliver(rows[in_test], labels[in_test]),
    )


def _rows(members: Members, shape: tuple[int, int, int], rows: np.ndarray, labels: np.ndarray) -> Rows:
    def chunks() -> Iterator[Chunk]:
        step = chunk_rows(shape)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            images = np.empty((len(some), *shape), np.uint8)
            for k, row in enumerate(some):
                images[k] = decode(members.read(int(row)), _what(members, row), shape)
            yield images, labels[start : start + step]

    return Rows(len(rows), chunks)


def _split(members: Members, rows: np.ndarray) -> np.ndarray | None:
    """True where an image lies in `test/`, or None if the archive has no such splits."""
    tops = np.array([_folder(members.names[row], 0) for row in rows])
    return tops == b"test" if set(np.unique(tops)) == {b"test", b"train"} else None


def _drawn(n_images: int, held_out: int, members: Members) -> np.ndarray:
    if held_out >= n_images:
        raise UserError(f"data.held_out = {held_out}: {members.path} holds {n_images} images, at least one must be left to train on")
    drawn = np.zeros(n_images, bool)
    drawn[torch.randperm(n_images, generator=randomness.generator(0, "held out"))[:held_out].numpy()] = True
    return drawn


def _labels(members: Members, rows: np.ndarray, has_splits: bool) -> tuple[np.ndarray, int]:
    """Labels int64 of the images `rows`, and the number of classes (0 = none)."""
    place = members.index(LABEL_FILE)
    if place is not None:
        return _labels_from_file(members, rows, place)
    folders, numbers = np.unique([_folder(members.names[row], int(has_splits)) for row in rows], return_inverse=True)
    if len(folders) == 1:  # all in one folder, or in none: no classes
        return np.zeros(len(rows), np.int64), 0
    if folders[0] == b"":
        stray = members.names[rows[int(np.argmin(numbers))]].decode()
        raise UserError(f"{members.path}: {stray} lies in no class folder, others do ({folders[1].decode()}): sort it in")
    return numbers.astype(np.int64), len(folders)


def _folder(name: bytes, depth: int) -> bytes:
    """The folder of a member at `depth` (0 = outermost), empty if the file lies above it."""
    folders = name.split(b"/")[:-1]
    return folders[depth] if depth < len(folders) else b""


def _file_name(name: bytes) -> bytes:
    return name.rsplit(b"/", 1)[-1]


def _labels_from_file(members: Members, rows: np.ndarray, place: int) -> tuple[np.ndarray, int]:
    labels = np.full(len(members.names), -1, np.int64)
    pairs = _pairs(members.read(place), f"{members.path}: {LABEL_FILE}")
    if pairs is None:
        return np.zeros(len(rows), np.int64), 0
    for names, values in pairs:
        found = np.searchsorted(members.names, names)
        known = found < len(members.names)
        known[known] = members.names[found[known]] == names[known]
        if not known.all():
            stray = names[~known][0].decode(errors="replace")
            raise UserError(f"{members.path}: {LABEL_FILE} labels {stray!r}, which is not there: the labels are of other images")
        if len(np.unique(found)) < len(found) or (labels[found] >= 0).any():
            raise UserError(f"{members.path}: {LABEL_FILE} labels one image twice between {names[0].decode()} and {names[-1].decode()}")
        labels[found] = values
    chosen = labels[rows]
    if (chosen < 0).any():
        missing = members.names[rows[int(np.argmin(chosen))]].decode()
        raise UserError(
            f"{members.path}: {LABEL_FILE} has no label for {missing} ({int((chosen < 0).sum())} in all): the labels are of other images"
        )
    return chosen, int(chosen.max()) + 1


def _pairs(data: bytes, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]] | None:
    """The [name, label] pairs in pieces, or None if the file says that there are none.

    One pair is decoded at a time: the list of all of ImageNet's would be half a gigabyte of objects.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UserError(f"{what} is not JSON in UTF-8") from None
    start = re.match(r'\s*\{\s*"labels"\s*:\s*(?:(\[)|null\s*\}\s*$)', text)
    if start is None:
        raise UserError(f'{what} does not start with {{"labels": [[name, number], ...]}}')
    return _decoded(text, start.end(), what) if start.group(1) else None


def _decoded(text: str, place: int, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    decoder, gap = json.JSONDecoder(), re.compile(r"[\s,]*")
    names: list[bytes] = []
    values: list[int] = []
    while True:
        place = gap.match(text, place).end()  # type: ignore[union-attr]
        if text[place : place + 1] == "]":
            if text[place + 1 :].strip() != "}":
                raise UserError(f"{what} goes on after its labels")
            break
        try:
            pair, place = decoder.raw_decode(text, place)
        except (json.JSONDecodeError, RecursionError):
            raise UserError(f"{what} is not valid JSON after {place} characters") from None
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int and 0 <= pair[1] < 2**31):
            raise UserError(f"{what} holds {str(pair)[:80]}, expected a pair [name, class number]")
        names.append(pair[0].encode())
        values.append(pair[1])
        if len(names) == 10_000:
            yield np.array(names), np.array(values)
            names, values = [], []
    if names:
        yield np.array(names), np.array(values)


def _what(members: Members, row: int) -> str:
    return f"{members.path}: {members.names[row].decode()}"
