"""From images to `dataset.safetensors`, in constant memory: pooled, measured and written row by row.

The header is written last, into space left for it, because it holds what is only known at the end (sigma_data, digest). The file is a
plain safetensors file: `tensors.load_tensors` reads it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from backtrail.artifacts import atomic_write
from backtrail.errors import UserError

CHUNK_BYTES = 1 << 22  # images that are in memory at a time; the sums need eight times as much
Chunk = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Rows:
    """`n_rows` images with labels, delivered in order as pieces (uint8 [b, C, H, W], int64 [b])."""

    n_rows: int
    chunks: Callable[[], Iterator[Chunk]]

    @staticmethod
    def of(images: np.ndarray, labels: np.ndarray) -> "Rows":
        """Rows of arrays that are in memory anyway."""
        step = chunk_rows(images.shape[1:])
        starts = range(0, len(images), step)
        return Rows(len(images), lambda: ((images[i : i + step], labels[i : i + step]) for i in starts))


@dataclass(frozen=True, kw_only=True)
class Images:
    """A data set on its way in: `shape` is (C, H, W) as delivered; `n_classes` is 0 without labels (then every label is 0)."""

    shape: tuple[int, int, int]
    n_classes: int
    train: Rows
    test: Rows


def chunk_rows(shape: tuple[int, ...]) -> int:
    """How many images of `shape` are delivered at a time."""
    return max(1, CHUNK_BYTES // math.prod(shape))


def pool(images: np.ndarray, resolution: int) -> np.ndarray:
    """Mean over the squares that become one pixel, uint8 [N, C, H, W] to [N, C, resolution, resolution]; halves are rounded up."""
    n, c, height, width = images.shape
    if height != width or height % resolution:
        raise UserError(f"data.resolution = {resolution}: does not divide the images' {height}x{width} pixels into equal squares")
    side = height // resolution
    if side == 1:
        return np.ascontiguousarray(images)
    total = images.reshape(n, c, resolution, side, resolution, side).sum(axis=(3, 5), dtype=np.uint32)
    return ((2 * total + side * side) // (2 * side * side)).astype(np.uint8)


def pack(path: str | Path, images: Images, name: str, resolution: int, sources: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the data set and return its metadata.

    Tensors: {train,test}_images uint8 [N, C, resolution, resolution] and {train,test}_labels int64 [N]. Metadata: name, n_classes,
    resolution, sigma_data (standard deviation of the training images in [-1, 1], over all pixels and channels), sources, and digest
    (sha256 of the four tensors' sha256, in the order of their names).
    """
    if images.train.n_rows == 0:
        raise UserError(f"data set {name} has no training images")
    metadata: dict[str, Any] = {"name": name, "n_classes": images.n_classes, "resolution": resolution, "sources": sources}
    layout = _layout(images, resolution)
    # room for the numbers that are not known yet: two digests' worth and the punctuation
    header_bytes = -(-(len(_header(layout, {**metadata, "sigma_data": 0.0, "digest": "0" * 64})) + 64) // 8) * 8

    def write(temporary: Path) -> None:
        with open(temporary, "w+b") as file:
            file.truncate(8 + header_bytes + max(entry["data_offsets"][1] for entry in layout.values()))
            total, squares, digests = 0, 0, {}
            for split, rows in (("test", images.test), ("train", images.train)):
                total, squares, found = _write_split(file, 8 + header_bytes, layout, split, rows, images, resolution)
                digests.update(found)
            n_values = images.train.n_rows * images.shape[0] * resolution**2
            metadata["sigma_data"] = math.sqrt(n_values * squares - total**2) / n_values / 127.5
            metadata["digest"] = hashlib.sha256("".join(digests[key] for key in sorted(digests)).encode()).hexdigest()
            file.seek(0)
            file.write(header_bytes.to_bytes(8, "little") + _header(layout, metadata).ljust(header_bytes))

    atomic_write(path, write)
    return metadata


def _layout(images: Images, resolution: int) -> dict[str, dict[str, Any]]:
    """Where each tensor lies: labels first, so that everything is aligned to 8 bytes."""
    layout: dict[str, dict[str, Any]] = {}
    offset = 0
    row_bytes = images.shape[0] * resolution**2
    for kind in ("labels", "images"):
        for split, rows in (("test", images.test), ("train", images.train)):
            labels = kind == "labels"
            shape = [rows.n_rows] if labels else [rows.n_rows, images.shape[0], resolution, resolution]
            end = offset + rows.n_rows * (8 if labels else row_bytes)
            layout[f"{split}_{kind}"] = {"dtype": "I64" if labels else "U8", "shape": shape, "data_offsets": [offset, end]}
            offset = end
    return layout


def _header(layout: Mapping[str, Any], metadata: Mapping[str, Any]) -> bytes:
    return json.dumps(
        {"__metadata__": {"backtrail": json.dumps({"metadata": metadata}, sort_keys=True)}, **layout}, sort_keys=True
    ).encode()


def _write_split(
    file: BinaryIO, base: int, layout: Mapping[str, Any], split: str, rows: Rows, images: Images, resolution: int
) -> tuple[int, int, dict[str, str]]:
    """Write one split; returns the sum and the sum of squares of its pixels (exact integers) and the digests of its two tensors."""
    images_at = base + layout[f"{split}_images"]["data_offsets"][0]
    labels_at = base + layout[f"{split}_labels"]["data_offsets"][0]
    image_hash, label_hash = hashlib.sha256(), hashlib.sha256()
    total = squares = done = 0
    for raw, labels in rows.chunks():
        if raw.dtype != np.uint8 or raw.shape[1:] != images.shape or len(raw) != len(labels):
            raise UserError(f"{split} images {done} and on are {raw.dtype} {raw.shape[1:]}, expected uint8 {images.shape}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < max(images.n_classes, 1):
            raise UserError(f"{split} labels {done} and on reach from {labels.min()} to {labels.max()} in {images.n_classes} classes")
        done += len(raw)
        if done > rows.n_rows:
            break
        pooled = pool(raw, resolution)
        wide = pooled.ravel().astype(np.uint64)
        total, squares = total + int(wide.sum()), squares + int(wide @ wide)
        for data, hasher, place in ((pooled, image_hash, images_at), (labels.astype("<i8"), label_hash, labels_at)):
            hasher.update(data.data)
            file.seek(place)
            file.write(data.data)
        images_at, labels_at = images_at + pooled.nbytes, labels_at + 8 * len(labels)
    if done != rows.n_rows:
        raise UserError(f"the {split} split delivered {done} images or more, expected {rows.n_rows}")
    return total, squares, {f"{split}_images": image_hash.hexdigest(), f"{split}_labels": label_hash.hexdigest()}
