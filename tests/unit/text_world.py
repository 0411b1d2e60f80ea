"""A small `fashion-text`: Fashion-MNIST's files with few garments, each class a shape of its own."""

from pathlib import Path

import numpy as np


def write_originals(folder: Path, n_train: int = 300, n_test: int = 80) -> Path:
    """Fashion-MNIST's four files: an image of class k is a bright square, 5 + 2 k pixels wide, with some noise in it."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, n in (("train", n_train), ("t10k", n_test)):
        labels = rng.permutation(np.arange(n) % 10).astype(np.uint8)
        images = np.zeros((n, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            side, top, left = 5 + 2 * int(label), *rng.integers(0, 4, 2)
            image[top : top + side, left : left + side] = rng.integers(160, 256, (side, side))
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    return folder
