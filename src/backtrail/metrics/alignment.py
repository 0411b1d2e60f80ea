"""How well images show what their captions say: accuracy of garment and colour, and a caption score by towers of our own.

Both nets are trained on real images of every pair of garment and colour, those that the generating models never see among them. The caption
score is the cosine between a small convolutional tower and the frozen vector of the caption: no CLIP score, and not to be held against one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from backtrail import layout
from backtrail.artifacts import file_digest
from backtrail.data.caption_archive import CaptionArchive
from backtrail.data.captions import CAPTIONS, COLOURS, GARMENTS, N_CAPTIONS, PER_GARMENT, WORDINGS, Caption
from backtrail.errors import UserError
from backtrail.metrics.features import Extractor
from backtrail.metrics.fitting import Fit, filled
from backtrail.metrics.frechet import factor, frechet_distance, moments
from backtrail.metrics.reference import Reference, load_reference
from backtrail.nets.classifier import DIMENSION
from backtrail.nets.towers import CaptionTower, Judge, Tower
from backtrail.parameters.text import TowerTraining
from backtrail.tensors import load_tensors, save_tensors

T = TypeVar("T", bound=Tower)
FEATURES = "garment-colour-classifier"  # the name of a distance in the judge's features
SCORE = "caption_score_own_towers"
TEMPERATURE = 0.05
BATCH = 256
CURE = "run the stage `text-judges` again"
HELD_OUT = torch.tensor([Caption.of(number).held_out for number in range(N_CAPTIONS)])


def garments_and_colours(captions: Tensor) -> tuple[Tensor, Tensor]:
    """What captions int64 [n] say, by number: garments and colours, int64 [n] each."""
    return captions // PER_GARMENT, captions // (PER_GARMENT // len(COLOURS)) % len(COLOURS)


def train_judge(images: Tensor, captions: Tensor, p: TowerTraining, on_step: Callable[[int, Tensor], None] | None = None) -> Judge:
    """The judge of garments and colours, trained by the sum of both cross entropies; images uint8 [N, 3, H, W], captions int64 [N]."""

    def loss(net: Judge, rows: Tensor) -> Tensor:
        of_garment, of_colour = net.logits(images[rows])
        garments, colours = garments_and_colours(captions[rows])
        return functional.cross_entropy(of_garment, garments) + functional.cross_entropy(of_colour, colours)

    return _fit(p, "judge")(lambda: Judge(p.width, len(GARMENTS), len(COLOURS)), loss, len(images), on_step)


def train_caption_tower(
    images: Tensor, captions: Tensor, vectors: Tensor, p: TowerTraining, on_step: Callable[[int, Tensor], None] | None = None
) -> CaptionTower:
    """The tower of captions, whose vectors [480, D] are by number: it learns which of them an image has, from the cosines with all.

    No image tells its wording: each of the three is as right as the others. The vectors stay as they are.
    """
    texts = functional.normalize(vectors, dim=1)
    scenes = torch.arange(N_CAPTIONS) // len(WORDINGS)
    right = (scenes[:, None] == scenes) / len(WORDINGS)  # [480, 480]

    def loss(net: CaptionTower, rows: Tensor) -> Tensor:
        return functional.cross_entropy(net.directions(images[rows]) @ texts.T / TEMPERATURE, right[captions[rows]])

    return _fit(p, "caption-tower")(lambda: CaptionTower(p.width, vectors.shape[1]), loss, len(images), on_step)


def _fit(p: TowerTraining, purpose: str) -> Fit:
    return Fit(p.steps, p.batch, p.learning_rate, p.seed, purpose)


def save_tower(path: str | Path, net: Tower, **extra: Any) -> None:
    """Write the weights with the net's kind and architecture, and `extra` metadata."""
    save_tensors(path, net.state_dict(), {"tower": type(net).__name__, "architecture": net.architecture, **extra})


def load_tower(path: str | Path, kind: type[T]) -> T:
    """A tower in eval mode. Raises UserError if the file is absent, damaged, or holds something else."""
    weights, metadata = load_tensors(path)
    if metadata.get("tower") != kind.__name__:
        raise UserError(f"{path} holds no {kind.__name__}: {CURE}")
    return filled(kind(**metadata["architecture"]), weights, path, CURE)


def judge_extractor(path: str | Path) -> Extractor:
    """The judge's features for distances. Raises UserError if its file is absent or another."""
    return Extractor(FEATURES, file_digest(path), DIMENSION, "none", "float32", load_tower(path, Judge))


@torch.inference_mode()
def accuracies(net: Judge, images: Tensor, captions: Tensor) -> dict[str, float]:
    """The share of images whose garment, colour, and both are those of their captions, over seen and over held-out pairs.

    images: uint8 [n, 3, H, W]; captions: int64 [n] by number. Names: `garment_accuracy_seen`, ..., `pair_accuracy_held_out`; a kind of pair
    that no image was asked for has no value.
    """
    hits = []
    for x, c in zip(images.split(BATCH), captions.split(BATCH), strict=True):
        right = [logits.argmax(1) == wanted for logits, wanted in zip(net.logits(x), garments_and_colours(c), strict=True)]
        hits.append(torch.stack([*right, right[0] & right[1]]))
    found = torch.cat(hits, dim=1).double()
    return {
        f"{name}_accuracy_{kind}": row[chosen].mean().item()
        for kind, chosen in _kinds(captions)
        for name, row in zip(("garment", "colour", "pair"), found, strict=True)
    }


@torch.inference_mode()
def caption_scores(net: CaptionTower, images: Tensor, captions: Tensor, vectors: Tensor) -> dict[str, float]:
    """The mean cosine between images uint8 [n, 3, H, W] and their captions' vectors (row k of `vectors`: caption k), by kind of pair."""
    texts = functional.normalize(vectors, dim=1)[captions]
    directions = torch.cat([net.directions(x) for x in images.split(BATCH)])
    cosines = (directions * texts).sum(dim=1).double()
    return {f"{SCORE}_{kind}": cosines[chosen].mean().item() for kind, chosen in _kinds(captions)}


def _kinds(captions: Tensor) -> list[tuple[str, Tensor]]:
    """Which images are of pairs that training images show, and which of the others, bool [n]; without kinds of which there is none."""
    held_out = HELD_OUT[captions]
    return [(kind, chosen) for kind, chosen in (("seen", ~held_out), ("held_out", held_out)) if chosen.any()]


def save_judge_reference(path: str | Path, extractor: Extractor, images: Tensor, batch_size: int) -> None:
    """Write the statistics of real images uint8 [n, 3, H, W] in the judge's features, to be read by `reference.load_reference`."""
    features = extractor.features(images, batch_size)
    mean, covariance = moments(features)
    about = {"extractor": extractor.name, "extractor_sha256": extractor.digest, "resize": extractor.resize, "dtype": extractor.dtype}
    tensors = {"mean": mean, "factor": factor(covariance), "features": features[:1]}
    save_tensors(path, tensors, about | {"batch_size": batch_size, "n_images": len(images)})


@dataclass(frozen=True)
class Judges:
    """All that images of a suite are measured by; row k of `vectors` is caption k's."""

    extractor: Extractor
    reference: Reference
    tower: CaptionTower
    tower_digest: str
    vectors: Tensor

    def __call__(self, images: Tensor, captions: Tensor, batch_size: int) -> dict[str, float]:
        """Distance, accuracies and caption scores of images uint8 [n, 3, H, W] made for captions int64 [n], by number."""
        features = self.extractor.features(images, batch_size)
        fd = frechet_distance(features, self.reference.mean, self.reference.factor)
        aligned = accuracies(self.extractor.network, images, captions) | caption_scores(self.tower, images, captions, self.vectors)
        return {f"fd_{self.extractor.key}": fd, **aligned}

    def protocol(self, n_images: int, batch_size: int) -> list[dict[str, Any]]:
        """What stands beside the values: one entry per kind of metric."""
        extractor, settings = self.extractor, {"batch_size": batch_size}
        judge = {"extractor": extractor.name, "extractor_sha256": extractor.digest, "n_images": n_images, "settings": settings}
        reference = {"n_reference": self.reference.n_images, "reference_sha256": self.reference.sha256}
        return [
            {"metric": f"fd_{extractor.key}", "resize": extractor.resize, "dtype": extractor.dtype, **judge, **reference},
            {"metric": "garment_accuracy, colour_accuracy, pair_accuracy; of pairs seen and held out in training", **judge},
            {"metric": SCORE, "extractor": "caption-tower", "extractor_sha256": self.tower_digest, "n_images": n_images},
        ]


def load_judges(texts: CaptionArchive) -> Judges:
    """The judges of the suite in this folder. Raises UserError if a file is absent, damaged or another's."""
    extractor = judge_extractor(layout.JUDGE)
    reference, tower = load_reference(layout.reference(FEATURES), extractor), load_tower(layout.CAPTION_TOWER, CaptionTower)
    return Judges(extractor, reference, tower, file_digest(layout.CAPTION_TOWER), texts.pooled[texts.rows(CAPTIONS)])
