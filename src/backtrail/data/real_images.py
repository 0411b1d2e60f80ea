"""Photographs of many shapes out of a zip, as each protocol of measuring wants them."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from backtrail.data.archives import Members, open_zip
from backtrail.data.decode import ENDINGS, MAX_SIDE, format_of
from backtrail.errors import UserError

PATCH = 299  # side of what Inception sees
LANCZOS = Image.Resampling.LANCZOS


class RealImageFile:
    """The images of a zip, in the order of their names."""

    def __init__(self, path: str | Path):
        self.members: Members = open_zip(path)
        self.rows = [k for k, name in enumerate(self.members.names) if bytes(name).lower().endswith(ENDINGS)]
        if not self.rows:
            raise UserError(f"{path} holds no images: expected {', '.join(ending.decode() for ending in ENDINGS)}")

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, i: int) -> str:
        """The name of image i, without folders."""
        return bytes(self.members.names[self.rows[i]]).decode().rsplit("/", 1)[-1]

    def __getitem__(self, i: int) -> Image.Image:
        """Image i in RGB, as it is. Raises UserError if it is no whole image, or has more than MAX_SIDE pixels a side."""
        data, what = self.members.read(self.rows[i]), f"{self.members.path}: {self.name(i)}"
        if (kind := format_of(data[:12])) is None:
            raise UserError(f"{what} is no whole image: get the archive again")
        try:
            with Image.open(io.BytesIO(data), formats=[kind]) as image:
                if max(image.size) > MAX_SIDE:
                    raise UserError(f"{what} has {image.width}x{image.height} pixels, allowed are {MAX_SIDE} a side")
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise UserError(f"{what} is no whole {kind} ({type(error).__name__}): get the archive again") from None

    def batches(self, kind: str, side: int, n: int, batch_size: int) -> Iterator[np.ndarray]:
        """The first n images as `prepared`, uint8 [<= batch_size, 3, h, w]."""
        for first in range(0, n, batch_size):
            yield np.stack([prepared(self[i], kind, side) for i in range(first, min(first + batch_size, n))])


def prepared(image: Image.Image, kind: str, side: int) -> np.ndarray:
    """An image as a protocol wants it, uint8 [3, h, w].

    whole          a centred square, Lanczos to `side` pixels
    crop-256, -512 the same, to that number of pixels (DMD2's evaluation)
    patch          the middle 299x299 at native size; an image that is smaller is enlarged until it has them
    """
    if kind == "patch":
        if min(image.size) < PATCH:
            scale = PATCH / min(image.size)
            image = image.resize(tuple(max(PATCH, round(scale * length)) for length in image.size), LANCZOS)
        return _array(_middle(image, PATCH))
    wanted = side if kind == "whole" else int(kind.removeprefix("crop-"))
    square = _middle(image, min(image.size))
    return _array(square if square.width == wanted else square.resize((wanted, wanted), LANCZOS))


def prepared_made(images: np.ndarray, kind: str) -> np.ndarray:
    """Images that a model has made, uint8 [n, 3, S, S], likewise: `whole` leaves them as they are."""
    if kind == "whole":
        return images
    return np.stack([prepared(Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))), kind, images.shape[-1]) for image in images])


def _middle(image: Image.Image, side: int) -> Image.Image:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _array(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
