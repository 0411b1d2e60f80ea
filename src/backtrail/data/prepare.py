"""The stage `dataset`: `data/raw` becomes `data/dataset.safetensors`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from backtrail.data.archives import open_tar, open_zip
from backtrail.data.cifar import cifar10
from backtrail.data.fashion_mnist import fashion_mnist
from backtrail.data.images import image_set
from backtrail.data.pack import Images, Rows, pack
from backtrail.data.sources import OWN, source_of
from backtrail.data.verification import digest_of
from backtrail.errors import UserError
from backtrail.parameters.data import Data


def _own(raw: Path, data: Data) -> Images:
    return image_set(open_zip(raw / OWN), data.held_out)


def _zip(name: str, n_images: int, n_classes: int | None) -> Callable[[Path, Data], Images]:
    """A loader of an EDM-style zip made by hand, held against what is known of the data set: images are not pinned by a digest there.

    n_classes: None for a data set without classes. EDM's tool takes the folders of its originals for labels: thousands of FFHQ, and
    AFHQ's training and test images.
    """

    def load(raw: Path, data: Data) -> Images:
        images = image_set(open_zip(raw / name), data.held_out)
        found = images.train.n_rows + images.test.n_rows
        if found != n_images or images.shape != (3, 64, 64) or n_classes not in (None, images.n_classes):
            wanted = f"{n_images} images of 64x64 RGB" + (f" in {n_classes} classes" if n_classes else "")
            raise UserError(f"{raw / name} holds {found} images of shape {images.shape} in {images.n_classes} classes, expected {wanted}")
        return images if n_classes else _unlabelled(images)

    return load


def _unlabelled(images: Images) -> Images:
    def of(rows: Rows) -> Rows:
        return Rows(rows.n_rows, lambda: ((pixels, np.zeros_like(labels)) for pixels, labels in rows.chunks()))

    return replace(images, n_classes=0, train=of(images.train), test=of(images.test))


LOADERS: dict[str, Callable[[Path, Data], Images]] = {
    "fashion-mnist": lambda raw, data: fashion_mnist(raw),
    "cifar10": lambda raw, data: cifar10(raw),
    "cifar10-jpeg": lambda raw, data: image_set(open_tar(raw / "cifar10-images.tar.xz")),
    "ffhq64": _zip("ffhq-64x64.zip", 70_000, None),
    "afhqv2-64": _zip("afhqv2-64x64.zip", 15_803, None),
    "imagenet64": _zip("imagenet-64x64.zip", 1_281_167, 1000),
    "image-zip": _own,
    "image-folder": _own,
}


def prepare(data: Data, raw: str | Path = "data/raw", out: str | Path = "data/dataset.safetensors") -> dict[str, Any]:
    """Turn the originals in `raw` into the data set file; returns its metadata."""
    raw = Path(raw)
    sources = []
    for file in source_of(data).files:
        if not (raw / file.name).is_file():
            raise UserError(f"{raw / file.name} is missing: run the stage `fetch`")
        sources.append({"file": file.name, "sha256": digest_of(raw / file.name)})
    return pack(out, LOADERS[data.name](raw, data), data.name, data.resolution, sources)
