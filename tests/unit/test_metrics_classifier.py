"""The small classifier learns, gives the same bytes twice, and comes back from its file."""

import hashlib

import pytest
import torch

from backtrail.errors import UserError
from backtrail.metrics.classifier import (
    ROTATIONS,
    accuracy,
    load_classifier,
    rotated,
    rotation_task,
    save_classifier,
    train_classifier,
)
from backtrail.metrics.features import extractor
from backtrail.metrics.fitting import epoch_order, learning_rate_factor
from backtrail.nets.classifier import Classifier
from backtrail.parameters.classifier import ClassifierParameters
from backtrail.tensors import save_tensors

SMALL = ClassifierParameters(width=8, n_steps=60, batch_size=32)


def bars(n, seed):
    """Images with a horizontal (0) or vertical (1) bar under noise, and these labels."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=g)
    images = torch.randint(0, 120, (n, 1, 8, 8), generator=g, dtype=torch.uint8)
    for image, label, place in zip(images, labels, torch.randint(8, (n,), generator=g), strict=True):
        (image[0] if label else image[0].T)[:, place] += 100
    return images, labels


def test_it_learns_a_task_that_can_be_learned():
    images, labels = bars(600, 0)
    losses = []
    net = train_classifier(images, labels, 2, SMALL, lambda done, loss: losses.append((done, loss.item())))
    assert accuracy(net, *bars(300, 1)) > 0.97
    assert [done for done, _ in losses] == list(range(1, 61)) and losses[-1][1] < losses[0][1] / 3


def test_the_same_bytes_twice_whatever_torchs_own_generator(tmp_path):
    images, labels = bars(200, 2)
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_classifier(tmp_path / f"{seed}", train_classifier(images, labels, 2, SMALL), accuracy=0.5)
        digests.append(hashlib.sha256((tmp_path / f"{seed}").read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    other = train_classifier(images, labels, 2, SMALL.model_copy(update={"seed": 1}))
    assert not torch.equal(other.classify.weight, load_classifier(tmp_path / "1")[0].classify.weight)


def test_an_epoch_sees_each_image_once_and_the_next_in_another_order():
    first, second = epoch_order(50, 0, 0), epoch_order(50, 0, 1)
    assert sorted(first.tolist()) == list(range(50)) and not torch.equal(first, second) and torch.equal(first, epoch_order(50, 0, 0))


def test_learning_rate_warms_up_and_ends_at_zero():
    factors = [learning_rate_factor(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == factors[9] > 0.97 and factors[100] == 0
    assert factors[9:] == sorted(factors[9:], reverse=True)


def test_it_comes_back_from_its_file_as_an_extractor(tmp_path):
    images, labels = bars(100, 3)
    net = train_classifier(images, labels, 2, SMALL)
    save_classifier(tmp_path / "c.safetensors", net, accuracy=0.9)
    again, metadata = load_classifier(tmp_path / "c.safetensors")
    assert metadata["accuracy"] == 0.9 and metadata["classifier"] == {"channels": 1, "n_classes": 2, "width": 8}
    e = extractor("classifier", tmp_path / "c.safetensors")
    assert torch.allclose(e.features(images), net(images), rtol=1e-5, atol=1e-6)
    assert e.dimension == e.features(images).shape[1] == 64 and torch.equal(again(images), net(images))
    assert e.digest == hashlib.sha256((tmp_path / "c.safetensors").read_bytes()).hexdigest()


def test_what_cannot_be_trained_or_read_is_refused(tmp_path):
    images, labels = bars(20, 4)
    with pytest.raises(UserError, match="the classifier learns from batches of 32 images, and there are only 20: ask"):
        train_classifier(images, labels, 2, SMALL)
    with pytest.raises(UserError, match="has 0: take `classifier` out"):
        train_classifier(images, labels, 0, SMALL)
    with pytest.raises(UserError, match=r"lie in 0\.\.1; found"):
        train_classifier(images.repeat(2, 1, 1, 1), labels.repeat(2) + 1, 2, SMALL)
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(UserError, match="holds no classifier"):
        load_classifier(tmp_path / "x.safetensors")
    save_tensors(tmp_path / "y.safetensors", {"a": torch.zeros(1)}, {"classifier": {"channels": 1, "n_classes": 2, "width": 8}})
    with pytest.raises(UserError, match="does not fit the net"):
        load_classifier(tmp_path / "y.safetensors")
    weights = Classifier(1, 2, 8).state_dict()
    weights["classify.weight"][0, 0] = torch.nan
    save_tensors(tmp_path / "z.safetensors", weights, {"classifier": {"channels": 1, "n_classes": 2, "width": 8}})
    with pytest.raises(UserError, match="NaN or infinity in classify"):
        load_classifier(tmp_path / "z.safetensors")


def test_without_classes_it_learns_which_way_up():
    """A gradient from dark to light tells the way up; an image without one does not."""
    turns = torch.arange(8) % 4
    ramp = torch.linspace(0, 255, 8).to(torch.uint8).expand(8, 8).T.expand(8, 1, 8, 8)
    for image, count in zip(rotated(ramp, turns), turns, strict=True):
        assert torch.equal(image, ramp[0].rot90(int(count), (1, 2)))
    images = ramp.repeat(16, 1, 1, 1)
    turned, labels = rotation_task(images, seed=1)
    assert torch.equal(turned, rotated(images, labels)) and labels.unique().tolist() == [0, 1, 2, 3]
    assert all(torch.equal(a, b) for a, b in zip(rotation_task(images, seed=1), (turned, labels), strict=True))
    assert accuracy(train_classifier(turned, labels, ROTATIONS, SMALL), turned, labels) > 0.95
    flat = torch.full_like(images, 100)
    turned, labels = rotation_task(flat, seed=1)
    assert accuracy(train_classifier(turned, labels, ROTATIONS, SMALL), turned, labels) < 0.5
