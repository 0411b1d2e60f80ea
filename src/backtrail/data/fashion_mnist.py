"""Fashion-MNIST: the idx files, read strictly."""

from pathlib import Path

import numpy as np

from backtrail.data.pack import Images, Rows
from backtrail.errors import UserError

_UINT8 = 0x08
SIDE = 28
PADDED = 32  # a side that halves four times


def read_idx(path: str | Path, n_dimensions: int) -> np.ndarray:
    """The uint8 array in an idx file: two zero bytes, type 8, the number of dimensions, then the sizes (big-endian), then the data.

    Raises UserError if a byte of this does not hold, or if the data is shorter or longer than the sizes say.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage `fetch`") from None
    header_bytes = 4 + 4 * n_dimensions
    magic = bytes([0, 0, _UINT8, n_dimensions])
    if len(data) < header_bytes or data[:4] != magic:
        raise UserError(f"{path} is no idx file of {n_dimensions} dimensions: it starts with {data[:4].hex()}, expected {magic.hex()}")
    sizes = tuple(int(size) for size in np.frombuffer(data, ">u4", n_dimensions, 4))
    expected = header_bytes + int(np.prod(sizes, dtype=object))
    if len(data) != expected:
        raise UserError(f"{path} holds {len(data)} bytes, its header {sizes} asks for {expected}: delete it and run the stage `fetch`")
    return np.frombuffer(data, np.uint8, offset=header_bytes).reshape(sizes)


def fashion_mnist(raw: str | Path) -> Images:
    """The two splits as uint8 [N, 1, 32, 32]: the 28x28 images with two pixels of black around them."""
    raw = Path(raw)
    return Images(
        shape=(1, PADDED, PADDED),
        n_classes=10,
        train=_split(raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"),
        test=_split(raw / "t10k-images-idx3-ubyte", raw / "t10k-labels-idx1-ubyte"),
    )


def _split(images_path: Path, labels_path: Path) -> Rows:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise UserError(f"{images_path} holds images of {images.shape[1:]} pixels, expected {(SIDE, SIDE)}")
    if len(images) != len(labels) or (len(labels) and labels.max() > 9):
        raise UserError(f"{labels_path} holds {len(labels)} labels up to {labels.max(initial=0)} for {len(images)} images, expected 0 to 9")
    border = (PADDED - SIDE) // 2
    padded = np.pad(images, ((0, 0), (border, border), (border, border)))[:, None]
    return Rows.of(padded, labels.astype(np.int64))
