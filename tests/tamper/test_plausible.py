"""Samples that were swapped and records that were bent, with a ledger that fits them in every digest: hard to believe, and told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

from backtrail.audit.audit import audit
from backtrail.audit.plausible import EXIT_CODE, suspicions
from backtrail.ledger.ledger import open_ledger
from backtrail.tensors import load_tensors, save_tensors
from tamper.forging import edit_record, rewrite_ledger

pytestmark = pytest.mark.xdist_group("tamper")
SAMPLES = "results/samples/disback/seed0.safetensors"


def put(folder: Path, images: Any) -> None:
    """DisBack's samples replaced, header and digest of the archive made anew, and the whole ledger made to fit."""
    tensors, about = load_tensors(folder / SAMPLES)
    (key,) = tensors
    save_tensors(folder / SAMPLES, {key: images[: len(tensors[key])].contiguous()}, about)
    rewrite_ledger(folder)


def training_images(folder: Path) -> None:
    put(folder, load_torch(folder / "data/dataset.safetensors")["train_images"])


def noise(folder: Path) -> None:
    import torch

    put(folder, torch.randint(256, (64, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))


def other_seed(folder: Path) -> None:
    (images,) = load_torch(folder / "results/samples/disback/seed1.safetensors").values()
    put(folder, images)


def bent(**values: Any) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        edit_record(folder, "samples@disback-0", lambda record: record.update(values))
        rewrite_ledger(folder)

    return forge


@pytest.mark.parametrize(
    ("forge", "subject", "message"),
    [
        (training_images, SAMPLES, "of the images of student/nfe1 are training images, pixel by pixel"),
        (training_images, SAMPLES, "from the ends of their ways from noise"),
        (noise, SAMPLES, "from the ends of their ways from noise"),
        (
            bent(started="2016-01-01T00:00:00.000+00:00", ended="2016-01-01T00:00:01.000+00:00", seconds=1.0),
            "results/records/samples@disback-0.json", "before the commit that it names was made",
        ),
        (bent(cpu_seconds=1e6), "results/records/samples@disback-0.json", "1,000,000 processor seconds in"),
        (bent(gpu_seconds=1e6), "results/records/samples@disback-0.json", "1,000,000 GPU seconds in"),
    ],
    ids=["training images", "training images, ways", "noise", "ten years earlier", "processor", "GPU"],
)  # fmt: skip
def test_a_forgery_that_contradicts_no_digest_is_told(ledger: Path, forge: Callable[[Path], None], subject: str, message: str) -> None:
    forge(ledger)
    done = audit(ledger)
    assert done.findings == [] and done.exit_code == EXIT_CODE, "the forger has left no contradiction"
    assert any(one.subject == subject and message in one.message for one in done.suspicions), done.suspicions


def test_images_of_another_seed_are_told_with_the_archive_that_they_stand_in(ledger: Path) -> None:
    other_seed(ledger)
    found = [one.message for one in suspicions(open_ledger(ledger)) if "pixel by pixel" in one.message]
    assert len(found) == 1 and "disback/seed0.safetensors" in found[0] and "disback/seed1.safetensors" in found[0]


def test_an_untouched_suite_raises_nothing(finished: Path) -> None:
    assert suspicions(open_ledger(finished)) == []
    images = load_file(finished / SAMPLES)["student/nfe1"]
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) > 1, "of constant images nothing could be told"
