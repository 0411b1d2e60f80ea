"""The points of a student's curve."""

from collections.abc import Callable

import torch

from backtrail.data.dataset import to_uint8
from backtrail.denoiser import NetDenoiser
from backtrail.metrics.frechet import frechet_distance
from backtrail.metrics.measures import load_measure
from backtrail.sampling.sample import Sampler, sample


def curve_point(sampler: Sampler, n_images: int, device: torch.device) -> Callable[[NetDenoiser], float]:
    """A function from a student to its Frechet distance in the classifier's features, on the same `n_images` seeds at each call."""
    features, reference = load_measure("classifier", device)

    def distance(student: NetDenoiser) -> float:
        images = to_uint8(sample(student, sampler, range(n_images), student.image_shape, student.conditions, device=device))
        return frechet_distance(features.features(images), reference.mean, reference.factor)

    return distance
