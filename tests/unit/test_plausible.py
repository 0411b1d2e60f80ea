"""What is hard to believe, on results of a few numbers and images that are made here."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from backtrail.audit.copies import N_NEAR, copied
from backtrail.audit.plausible import suspicions
from backtrail.ledger.ledger import Entry, Ledger, Stage

SAMPLES = "results/samples/disback/seed0.safetensors"
Images = NDArray[np.uint8]


def ledger(folder: Path, *outs: str) -> Ledger:
    """A ledger that names these files."""
    stages = {out: Stage(out, "", {}, {}, {out: Entry(out, "", 0)}) for out in outs}
    params = {"metrics": {"n_samples": 1000, "n_curve": 500, "extractors": ["classifier"]}}
    return Ledger(folder, stages, dict.fromkeys(stages), params)


def drawn(n: int, seed: int, channels: int = 1, side: int = 16) -> Images:
    """Smooth random images uint8 [n, C, side, side], each another."""
    waves = np.random.default_rng(seed).normal(size=(n, channels, 5, 5))
    place = np.cos(np.pi * np.outer(np.arange(5), (np.arange(side) + 0.5) / side))
    return np.clip(128 + 45 * (place.T @ waves @ place), 0, 255).astype(np.uint8)


def noisy(images: Images) -> Images:
    return np.clip(images.astype(int) + np.random.default_rng(1).integers(-1, 2, images.shape), 0, 255).astype(np.uint8)


def one_pixel(images: Images) -> Images:
    images[:, :, 3, 3] ^= 255
    return images


def written(folder: Path, samples: Images, channels: int, side: int) -> list[str]:
    """What is said of these samples beside a data set of 600 training images and 100 held-out ones."""
    (folder / "data").mkdir()
    (folder / SAMPLES).parent.mkdir(parents=True)
    save_file(
        {"train_images": drawn(600, 0, channels, side), "test_images": drawn(100, 1, channels, side)}, folder / "data/dataset.safetensors"
    )
    save_file({"student/nfe1": np.ascontiguousarray(samples)}, folder / SAMPLES)
    return [message for _, message in copied(ledger(folder, SAMPLES))]


@pytest.mark.parametrize(("channels", "side"), [(1, 16), (3, 32), (3, 12)])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images, "100.0% of the images of student/nfe1 are training images, pixel by pixel; of held-out images 0.0% are"),
        (one_pixel, "100% of the first 32 of student/nfe1 are almost training images"),
        (noisy, "100% of the first 32 of student/nfe1 are almost training images"),
        (lambda images: images[..., ::-1], "100% of the first 32 of student/nfe1 are almost training images"),
    ],
    ids=["same", "one pixel", "noise", "mirrored"],
)
def test_copies_and_near_copies_of_training_images_are_told(
    tmp_path: Path, change: Callable[[Images], Images], message: str, channels: int, side: int
) -> None:
    (said,) = written(tmp_path, change(drawn(600, 0, channels, side)[100 : 100 + 2 * N_NEAR]), channels, side)
    assert message in said


@pytest.mark.parametrize("samples", [drawn(64, 2), np.full((64, 1, 16, 16), 7, np.uint8), drawn(64, 0) // 2, drawn(600, 0)[::-1][:8]])
def test_other_images_constant_ones_and_dark_versions_are_not(tmp_path: Path, samples: Images) -> None:
    """The last are copies, to show that the test could tell."""
    said = written(tmp_path, samples, 1, 16)
    assert bool(said) == (len(samples) == 8)


def measured(folder: Path, fd: float, curve_end: float) -> list[str]:
    """What is said of a student with this distance and this end of its curve; real images have 2 and, by fewer images, 3."""
    files: dict[str, str] = {
        "results/reference/classifier.json": json.dumps({"floor": {"fd_classifier": 2.0}, "floor_curve": {"fd_classifier": 3.0}}),
        "results/metrics/disback/seed0.json": json.dumps({"values": {"student": {"nfe1": {"fd_classifier": fd}}}}),
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text)
    (folder / "results/curves/disback").mkdir(parents=True)
    with open(folder / "results/curves/disback/seed0.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("update", "nfe", "fd_classifier"), (0, 1, 90.0), (50, 1, curve_end), (60, 1, "")])
    return [one.message for one in suspicions(ledger(folder, *files))]


@pytest.mark.parametrize(
    ("fd", "curve_end", "message"),
    [
        (1.9, 3.2, "fd_classifier of student/nfe1 is 1.9; real images against real ones have 2"),
        (5.0, 40.0, "fd_classifier of student/nfe1 is 5, and its training curve ended with 40: expected within a factor of 2"),
        (80.0, 30.0, "fd_classifier of student/nfe1 is 80, and its training curve ended with 30: expected within a factor of 2"),
    ],
    ids=["below the floor", "better than the curve", "worse than the curve"],
)
def test_a_distance_below_the_floor_or_far_from_its_curve_is_told(tmp_path: Path, fd: float, curve_end: float, message: str) -> None:
    (said,) = measured(tmp_path, fd, curve_end)
    assert said == f"results/metrics/disback/seed0.json: {message}"


@pytest.mark.parametrize(("fd", "curve_end"), [(2.1, 3.1), (20.0, 30.0), (35.0, 25.0)])
def test_a_distance_above_the_floor_and_near_its_curve_is_not(tmp_path: Path, fd: float, curve_end: float) -> None:
    assert measured(tmp_path, fd, curve_end) == []
