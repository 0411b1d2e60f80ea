"""`fashion-text`: Fashion-MNIST with a colour, a ground and a caption, a small world for text-to-image models.

An image of 28x28 is padded to 36x36 and cropped to 32x32, which loses nothing of it; its grey value is the share of the garment's colour,
the rest is the ground's. Everything that is chosen is a hash of (seed, split, index).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backtrail.data.captions import COLOURS, GARMENTS, GROUNDS, HELD_OUT, N_CAPTIONS, WORDINGS
from backtrail.data.fashion_mnist import SIDE, fashion_mnist
from backtrail.data.pack import Chunk, Images, Rows

PADDED, CROPPED = 36, 32
OFFSETS = PADDED - CROPPED + 1
CENTRE = 2  # the offset in both directions at which samples are asked for
SHAPE = (3, CROPPED, CROPPED)


@dataclass(frozen=True)
class Scenes:
    """What was chosen for n images, int64 [n] each: garment (class), colour, ground, wording; and where the crop begins, pixels."""

    garments: np.ndarray
    colours: np.ndarray
    grounds: np.ndarray
    wordings: np.ndarray
    tops: np.ndarray
    lefts: np.ndarray

    @property
    def captions(self) -> np.ndarray:
        """Numbers of their captions (`Caption.number`), int64 [n]."""
        return ((self.garments * len(COLOURS) + self.colours) * len(GROUNDS) + self.grounds) * len(WORDINGS) + self.wordings

    @property
    def time_ids(self) -> np.ndarray:
        """SDXL's micro-conditioning, int64 [n, 6]: height and width before the crop, its top and left, height and width after it."""
        return time_ids(self.tops, self.lefts)

    def centred(self) -> "Scenes":
        """The same, cropped where samples are asked for."""
        return replace(self, tops=np.full_like(self.tops, CENTRE), lefts=np.full_like(self.lefts, CENTRE))

    def at(self, rows: slice) -> "Scenes":
        """Some of them."""
        return Scenes(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def time_ids(tops: np.ndarray, lefts: np.ndarray) -> np.ndarray:
    """(28, 28, top, left, 32, 32), int64 [n, 6], of crops that begin at tops and lefts [n]."""
    n = len(tops)
    constant = [np.full(n, value) for value in (SIDE, CROPPED)]
    return np.stack([constant[0], constant[0], tops, lefts, constant[1], constant[1]], axis=1).astype(np.int64)


def centre_time_ids(n: int) -> np.ndarray:
    """The same of n crops in the middle, for which samples are asked, int64 [n, 6]."""
    return time_ids(np.full(n, CENTRE), np.full(n, CENTRE))


def choose_scenes(garments: np.ndarray, seed: int, split: str, held_out: bool) -> Scenes:
    """The scenes of the images of a split, whose classes are `garments` int64 [n].

    held_out: whether the eight pairs of garment and colour that training images never show (`HELD_OUT`) are among them.
    """
    words = (hashlib.blake2b(f"{seed}/fashion-text-{split}/{i}".encode(), digest_size=8).digest() for i in range(len(garments)))
    rest = np.frombuffer(b"".join(words), "<u8").copy()

    def pick(among: int | np.ndarray) -> np.ndarray:
        # 2^64 is so much more than a thousand scenes that the remainders are uniform
        nonlocal rest
        rest, chosen = np.divmod(rest, np.uint64(among) if isinstance(among, int) else among)
        return chosen.astype(np.int64)

    grounds, wordings, tops, lefts = (pick(n) for n in (len(GROUNDS), len(WORDINGS), OFFSETS, OFFSETS))
    missing = np.array([-1 if held_out else HELD_OUT.get(garment, -1) for garment in range(len(GARMENTS))])[garments]
    colours = pick(np.where(missing < 0, len(COLOURS), len(COLOURS) - 1).astype(np.uint64))
    colours += (missing >= 0) & (colours >= missing)
    return Scenes(garments.astype(np.int64), colours, grounds, wordings, tops, lefts)


def dress(images: np.ndarray, scenes: Scenes) -> np.ndarray:
    """Grey images in the middle of a black border, uint8 [n, H, W] -> [n, 3, 32, 32]: each pixel is between ground (0) and colour (255)."""
    borders = [((PADDED - side) // 2,) * 2 for side in images.shape[1:]]
    padded = np.pad(images, ((0, 0), *borders))
    steps = np.arange(CROPPED)
    n, rows, columns = np.arange(len(images))[:, None, None], scenes.tops[:, None] + steps, scenes.lefts[:, None] + steps
    share = padded[n, rows[:, :, None], columns[:, None, :]].astype(np.uint16)[:, None]
    colour = np.array(list(COLOURS.values()), np.uint16)[scenes.colours][:, :, None, None]
    ground = np.array(list(GROUNDS.values()), np.uint16)[scenes.grounds][:, None, None, None]
    return ((share * colour + (255 - share) * ground + 127) // 255).astype(np.uint8)


def fashion_text(raw: str | Path, seed: int, train_split: str = "train", held_out: bool = False, centred: bool = False) -> Images:
    """Both splits as uint8 [N, 3, 32, 32]; an image's label is its caption's number. Test images show every pair.

    train_split: another name gives the training images other scenes, and with `held_out` every pair is among them. centred: all crops
    begin at the offset at which samples are asked for.
    """
    plain = fashion_mnist(raw)
    return Images(
        shape=SHAPE,
        n_classes=N_CAPTIONS,
        train=_dressed(plain.train, seed, train_split, held_out, centred),
        test=_dressed(plain.test, seed, "test", True, centred),
    )


def _dressed(plain: Rows, seed: int, split: str, held_out: bool, centred: bool) -> Rows:
    def chunks() -> Iterator[Chunk]:
        garments = np.concatenate([labels for _, labels in plain.chunks()])
        scenes, done = choose_scenes(garments, seed, split, held_out), 0
        scenes = scenes.centred() if centred else scenes
        for images, labels in plain.chunks():
            own = scenes.at(slice(done, done + len(labels)))
            yield dress(images[:, 0], own), own.captions
            done += len(labels)

    return Rows(plain.n_rows, chunks)
