"""Training, testing, writing and reading the data set's small classifier."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backtrail.errors import UserError
from backtrail.metrics.fitting import Fit, filled
from backtrail.nets.classifier import Classifier
from backtrail.parameters.classifier import ClassifierParameters
from backtrail.randomness import Draw
from backtrail.tensors import load_tensors, save_tensors

ROTATIONS = 4


def train_classifier(
    images: Tensor,
    labels: Tensor,
    n_classes: int,
    p: ClassifierParameters,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Classifier:
    """The classifier after training (`fitting.Fit`), in eval mode.

    images: uint8 [n, C, H, W]; labels: int64 [n] in [0, n_classes). `on_step(steps done, loss)` is called after each. Raises UserError if
    there are fewer images than a batch holds or a label is out of range.
    """
    if n_classes < 2:
        raise UserError(f"a classifier needs at least 2 classes; the data set has {n_classes}: take `classifier` out of metrics.extractors")
    if not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise UserError(f"labels of the training images should lie in 0..{n_classes - 1}; found {int(labels.min())}..{int(labels.max())}")

    def loss(net: Classifier, rows: Tensor) -> Tensor:
        return functional.cross_entropy(net.logits(images[rows]), labels[rows])

    fit = Fit(p.n_steps, p.batch_size, p.learning_rate, p.seed, "classifier")
    return fit(lambda: Classifier(images.shape[1], n_classes, p.width), loss, len(images), on_step)


def rotated(images: Tensor, quarter_turns: Tensor) -> Tensor:
    """Each image [n, C, H, W] (H = W) turned by its number of quarter turns, int64 [n]."""
    turned = images.clone()
    for turns in (1, 2, 3):
        chosen = quarter_turns == turns
        turned[chosen] = images[chosen].rot90(turns, (2, 3))
    return turned


def rotation_task(images: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """What the classifier of a data set without classes is asked (Gidaris et al. 2018, arXiv 1803.07728): which way up is it?

    Returns the images, each turned by a random number of quarter turns, and that number.
    """
    turns = Draw(seed, "rotations").integers(ROTATIONS, len(images))
    return rotated(images, turns), turns


@torch.inference_mode()
def accuracy(net: Classifier, images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """The fraction of `images` uint8 [n, C, H, W] that `net` gives its label, between 0 and 1."""
    hits = [net.logits(x).argmax(1).eq(y).sum().item() for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True)]
    return sum(hits) / len(images)


def save_classifier(path: str | Path, net: Classifier, **extra: Any) -> None:
    """Write the weights with the architecture and `extra` (accuracy, data set, ...) as metadata."""
    save_tensors(path, net.state_dict(), {"classifier": net.architecture, **extra})


def import_classifier(path: str | Path, dataset: str) -> Classifier:
    """The classifier of another suite, in eval mode. Raises UserError unless it was trained on the data set of this digest."""
    net, about = load_classifier(path)
    if about.get("dataset") != dataset:
        raise UserError(f"{path} was trained on another data set than this suite's: train one here (say `n_steps` and no `source`)")
    return net


def load_classifier(path: str | Path) -> tuple[Classifier, dict[str, Any]]:
    """The classifier in eval mode, and its file's metadata. Raises UserError if the file is absent, broken, or holds something else."""
    weights, metadata = load_tensors(path)
    if "classifier" not in metadata:
        raise UserError(f"{path} holds no classifier: its header names none; run the stage `classifier` again")
    return filled(Classifier(**metadata["classifier"]), weights, path, "run the stage `classifier` again"), metadata
