"""The extractors and references that several commands measure with."""

from collections.abc import Callable
from pathlib import Path

import torch

from backtrail import layout
from backtrail.data.dataset import to_uint8
from backtrail.denoiser import NetDenoiser
from backtrail.metrics.evaluate import Measure
from backtrail.metrics.features import Extractor, extractor
from backtrail.metrics.frechet import frechet_distance
from backtrail.metrics.reference import load_reference
from backtrail.sampling.sample import Sampler, sample

INCEPTION = f"{layout.INCEPTION}/weights-inception-2015-12-05-6726825d.pth"  # the registry's name for it
WEIGHTS = {"classifier": Path(layout.CLASSIFIER), "inception": Path(INCEPTION), "inception-clean": Path(INCEPTION)}


def load_extractor(name: str, device: torch.device | str = "cpu") -> Extractor:
    """An extractor with the weights of this suite. Raises UserError if a file is absent or another."""
    return extractor(name, WEIGHTS.get(name), device)


def load_measure(name: str, device: torch.device | str = "cpu") -> Measure:
    """An extractor with the reference statistics in its features. Raises UserError if a file is absent or of another extractor."""
    features = load_extractor(name, device)
    return features, load_reference(layout.reference(name), features)


def curve_point(sampler: Sampler, n_images: int, device: torch.device) -> Callable[[NetDenoiser], float]:
    """A function from a student to its Frechet distance in the classifier's features, on the same `n_images` seeds at each call."""
    features, reference = load_measure("classifier", device)

    def distance(student: NetDenoiser) -> float:
        images = to_uint8(sample(student, sampler, range(n_images), student.image_shape, student.n_classes, device=device))
        return frechet_distance(features.features(images), reference.mean, reference.factor)

    return distance
