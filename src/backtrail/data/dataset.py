"""The data set as the stages use it: uint8 images, labels, and batches that are a function of (seed, purpose, step)."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backtrail.errors import UserError
from backtrail.randomness import Draw
from backtrail.tensors import load_tensors

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")
VALUES = ("n_classes", "sigma_data", "name", "digest")
PIECE_BYTES = 1 << 22


@dataclass(frozen=True)
class Labelled:
    """Images [N, C, H, W] and, where they are of classes, their labels, int64 [N]."""

    images: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Dataset:
    """Images uint8 [N, C, H, W], labels int64 [N] in [0, n_classes) (all 0 if n_classes is 0), on the CPU.

    `sigma_data` is the standard deviation of the training images in [-1, 1]; `digest` is the sha256 of the tensors' content.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    n_classes: int
    sigma_data: float
    name: str
    digest: str


def load_dataset(path: str | Path, verify: bool = True) -> Dataset:
    """Read a data set that `pack` wrote; with `verify`, its content is held against its digest (about 1 s per GB).

    The images are mapped from the file, not copied: only what is used takes memory. Raises UserError if the file is missing, not whole,
    or not the bytes that were written.
    """
    tensors, metadata = load_tensors(path, digested=False)  # they stay mapped: `content_digest` reads the file in pieces
    absent = [key for key in TENSORS if key not in tensors] + [key for key in VALUES if key not in metadata]
    if absent:
        raise UserError(f"{path} is no data set of this pipeline (it lacks {', '.join(absent)}): run the stage that makes it")
    if verify and (found := content_digest(path)) != metadata["digest"]:
        raise UserError(f"{path} has content {found}, its header says {metadata['digest']}: delete it and run `dvc repro` again")
    return Dataset(*(tensors[key] for key in TENSORS), **{key: metadata[key] for key in VALUES})


def content_digest(path: str | Path) -> str:
    """sha256 of the tensors' own sha256, in the order of their names; read in pieces and not mapped, so it takes no memory."""
    digests: dict[str, str] = {}
    with open(path, "rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
        for name in TENSORS:
            start, end = header[name]["data_offsets"]
            file.seek(8 + header_bytes + start)
            hasher = hashlib.sha256()
            for place in range(start, end, PIECE_BYTES):
                hasher.update(file.read(min(PIECE_BYTES, end - place)))
            digests[name] = hasher.hexdigest()
    return hashlib.sha256("".join(digests[name] for name in sorted(digests)).encode()).hexdigest()


def to_float(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]: x / 127.5 - 1 (EDM's rule)."""
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float in [-1, 1] to uint8: (x * 127.5 + 128) cut to [0, 255] (EDM's rule); the inverse of `to_float`."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def batch(images: Tensor, labels: Tensor, n: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """A training batch, drawn with replacement: float32 [n, C, H, W] in [-1, 1] and int64 [n].

    It depends on the draw alone, so a resumed run and a run on more devices see the same images.
    """
    rows = draw.integers(len(images), n)
    return to_float(images[rows]), labels[rows]
