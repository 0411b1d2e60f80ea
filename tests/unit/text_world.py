"""A small `fashion-text`: Fashion-MNIST's files with few garments, each class a shape of its own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backtrail.data.caption_archive import EMPTY, CaptionArchive
from backtrail.data.captions import CAPTIONS
from backtrail.data.dataset import Dataset, load_dataset
from backtrail.data.fashion_text import fashion_text
from backtrail.data.pack import pack
from backtrail.training.loop import Losses, run
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState


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


def small_dataset(folder: Path, n_train: int = 60, n_test: int = 20) -> Dataset:
    """The data set of the small originals, seed 0."""
    images = fashion_text(write_originals(folder / "raw", n_train, n_test), 0)
    pack(folder / "dataset.safetensors", images, "fashion-text", 32, [])
    return load_dataset(folder / "dataset.safetensors")


def random_captions(width: int = 12) -> CaptionArchive:
    """All captions as an encoder of random numbers would have them, of 3 to 8 tokens; the empty one of two."""
    drawn = torch.Generator().manual_seed(0)
    n = len(CAPTIONS) + 1
    lengths = torch.cat([torch.randint(3, 9, (n - 1,), generator=drawn), torch.tensor([2])])
    mask = torch.arange(8) < lengths[:, None]
    tokens = torch.randn(n, 8, width, generator=drawn) * mask[:, :, None]
    return CaptionArchive((*CAPTIONS, EMPTY), tokens, mask, tokens.sum(1) / lengths[:, None], "0" * 64)


def assert_resumes(
    start: Callable[[], TrainingState],
    update: Callable[[TrainingState, int], Losses],
    result: Callable[[TrainingState], dict[str, Tensor]],
    steps: int,
    stop: int,
    folder: Path,
) -> None:
    """A run of `steps` updates that was stopped after `stop` of them goes on from there, and ends with the same bytes."""

    def trained(scratch: Scratch | None, last: int) -> dict[str, Tensor]:
        state = start()
        for step, _ in run(state, lambda step: update(state, step), steps, scratch, save_every_s=0):
            if step == last:
                break
        if scratch is not None:
            scratch.finish()
        return result(state)

    at_once = trained(None, steps)
    trained(Scratch(folder), stop)
    scratch = Scratch(folder)
    resumed = trained(scratch, steps)
    assert 0 < scratch.resumed_from < steps
    assert all(torch.equal(value, resumed[name]) for name, value in at_once.items())
