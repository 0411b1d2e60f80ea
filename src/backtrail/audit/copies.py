"""Images that are, or nearly are, images of the data set or of another archive.

Exact copies are counted over all images by digest. Near ones (a pixel changed, noise of a grey level, mirrored) are looked for among the
first images of each set: the training image that lies nearest to each, in coarse pictures of both, is compared with it pixel by pixel. As
many as held-out images are allowed: a data set may hold much that is nearly the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import safe_open

from backtrail.layout import DATASET, SAMPLES
from backtrail.ledger.ledger import Ledger

COPIES = 0.02  # share of a set that may be copies beyond the share among held-out images
BLOCK = 1 << 13  # images of the data set that are in memory at once
N_NEAR, N_HELD_OUT = 32, 256  # images of each set, and of held-out ones, whose nearest training images are looked for
NEAR_SHARE = 0.1  # of these, beyond the share among held-out images
AT_ONCE = 512  # images that are held against a block of training images at once
SIDE = 8  # pixels of the coarse pictures
LEVELS = 8  # grey levels that are no difference
AGREEING = 0.9  # share of an image's drawn pixels that agree in a near copy
LEAST_PIXELS = 10  # drawn pixels; an image with fewer shows nothing


def archive(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of what a safetensors file holds, one after the other; nothing of a file that cannot be read."""
    try:
        with safe_open(path, "np") as file:
            for key in sorted(file.keys()):
                yield key, file.get_tensor(key)
    except (OSError, safetensors.SafetensorError, ValueError, TypeError):
        return


def sampled(ledger: Ledger) -> list[str]:
    """The archives of samples that the ledger names."""
    return sorted(path for path in ledger.makers if path.startswith(f"{SAMPLES}/") and path.endswith(".safetensors"))


def digests(images: np.ndarray) -> np.ndarray:
    """A 64-bit digest of each image uint8 [n, ...], uint64 [n]; 0 of a constant one."""
    flat = images.reshape(len(images), -1)
    constant = (flat == flat[:, :1]).all(1)
    padded = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 8)))
    words = np.ascontiguousarray(padded).view(np.uint64)
    words = (words ^ (words >> np.uint64(29))) * (np.random.default_rng(0).integers(1 << 62, size=words.shape[1], dtype=np.uint64) * 2 + 1)
    return np.where(constant, np.uint64(0), (words ^ (words >> np.uint64(32))).sum(1, dtype=np.uint64) | np.uint64(1))


def share(of: np.ndarray, known: np.ndarray) -> float:
    """The share of images, constant ones not counted as such, whose digest is among `known`, which is in ascending order."""
    if not len(of) or not len(known):
        return 0.0
    place = np.searchsorted(known, of).clip(max=len(known) - 1)
    return float(((known[place] == of) & (of > 0)).mean())


def copied(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """(archive, message) of what looks copied."""
    path = ledger.folder / DATASET
    known, allowed = _training(path)
    seen: dict[str, tuple[str, np.ndarray]] = {}
    near = Nearest(path)
    for name in sampled(ledger):
        for key, images in archive(ledger.folder / name):
            if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
                continue
            found = digests(images)
            if (exact := share(found, known)) > allowed + COPIES:
                what = f"{exact:.1%} of the images of {key} are training images, pixel by pixel; of held-out images {allowed:.1%} are"
                yield name, f"{name}: {what}: they were copied, or the model repeats what it was shown"
            else:
                near.add((name, key), images)
            for other, (keys, theirs) in seen.items():
                if other != name and (shared := share(found, theirs)) > COPIES:
                    yield name, f"{name}: {shared:.1%} of the images of {key} are those of {other} ({keys}), pixel by pixel"
                    break
            keys, before = seen.get(name, ("", np.empty(0, np.uint64)))
            seen[name] = (f"{keys}, {key}" if keys else key, np.union1d(before, found))
    yield from near.found()


def _training(path: Path) -> tuple[np.ndarray, float]:
    """Digests of the training images, and the share of held-out images that are among them; none where there is no data set."""
    known, held_out = (
        np.concatenate([np.empty(0, np.uint64), *map(digests, _blocks(path, key))]) for key in ("train_images", "test_images")
    )
    known = np.sort(known)
    return known, share(held_out, known)


def _blocks(path: Path, key: str) -> Iterator[np.ndarray]:
    """The images of the data set, some thousands at a time; none of what cannot be read."""
    try:
        with safe_open(path, "np") as file:
            images = file.get_slice(key)
            n_images = images.get_shape()[0]
            for i in range(0, n_images, BLOCK):
                yield images[i : min(i + BLOCK, n_images)]  # a slice may not reach beyond the end
    except (OSError, safetensors.SafetensorError, ValueError, TypeError):
        return


def _coarse(images: np.ndarray) -> np.ndarray:
    """Images uint8 [n, C, H, W] averaged to at most SIDE pixels a side, float32 [n, F]; edges that do not divide are left out."""
    n, channels, height, width = images.shape
    down, along = max(1, height // SIDE), max(1, width // SIDE)
    cut = images[:, :, : height // down * down, : width // along * along]
    parts = cut.reshape(n, channels, height // down, down, width // along, along)
    return parts.mean((3, 5), dtype=np.float32).reshape(n, -1)


@dataclass
class Nearest:
    """Collects images, and then looks for the training images that lie nearest to each and to its mirror image."""

    path: Path
    names: list[tuple[str, str]] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)

    def add(self, name: tuple[str, str], images: np.ndarray) -> None:
        """The first images of a set, by (archive, key)."""
        self.names.append(name)
        self.images.append(images[:N_NEAR])

    def found(self) -> Iterator[tuple[str, str]]:
        """(archive, message) of the sets of which more are near copies than of held-out images."""
        held_out = next(_blocks(self.path, "test_images"), None)
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, images in enumerate(self.images):
            groups.setdefault(images.shape[1:], []).append(i)
        for shape, members in groups.items():
            if held_out is None or held_out.shape[1:] != shape:
                continue  # there are no training images of that shape that it could be a copy of
            sets = [held_out[:N_HELD_OUT], *(self.images[i] for i in members)]
            copies = self._near(np.concatenate(sets))
            allowed, *shares = (float(of.mean()) for of in np.split(copies, np.cumsum([len(of) for of in sets])[:-1]))
            for i, near in zip(members, shares, strict=True):
                if near > allowed + NEAR_SHARE:
                    name, key = self.names[i]
                    what = f"{near:.0%} of the first {len(self.images[i])} of {key} are almost training images, or mirror images of them,"
                    yield name, f"{name}: {what} pixel by pixel; of held-out images {allowed:.0%} are"

    def _near(self, images: np.ndarray) -> np.ndarray:
        """Whether each image uint8 [n, C, H, W] is nearly a training image, or the mirror image of one, bool [n]."""
        both = np.concatenate([images, images[..., ::-1]])
        coarse, pixels, least = _coarse(both), np.zeros_like(both), np.full(len(both), np.inf, np.float32)
        for block in _blocks(self.path, "train_images"):
            theirs = _coarse(block)
            length = (theirs**2).sum(1)
            for part in np.array_split(np.arange(len(both)), -(-len(both) // AT_ONCE)):
                squared = length - 2 * coarse[part] @ theirs.T  # but for what is the same of all
                nearest = squared.argmin(1)
                found = np.take_along_axis(squared, nearest[:, None], 1)[:, 0]
                nearer = found < least[part]
                least[part[nearer]], pixels[part[nearer]] = found[nearer], block[nearest[nearer]]
        copies = _agree(both, pixels) & np.isfinite(least)
        return copies[: len(images)] | copies[len(images) :]


def _agree(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Whether images uint8 [n, C, H, W] are nearly the others, bool [n]: of the pixels that either of two draws, nine in ten agree."""
    ours, theirs = ours.astype(np.int16), theirs.astype(np.int16)
    ground = np.median(ours, axis=(1, 2, 3), keepdims=True)
    drawn = (np.abs(ours - ground) > LEVELS) | (np.abs(theirs - ground) > LEVELS)
    n_drawn, n_same = drawn.sum((1, 2, 3)), (drawn & (np.abs(ours - theirs) <= LEVELS)).sum((1, 2, 3))
    return (n_drawn >= LEAST_PIXELS) & (n_same >= AGREEING * n_drawn)
