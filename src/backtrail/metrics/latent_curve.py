"""The point of a latent student's curve: the distance of a few decoded images in Inception's features."""

from collections.abc import Callable

import torch

from backtrail import layout
from backtrail.denoiser import NetDenoiser
from backtrail.metrics.latent_measures import load_measures
from backtrail.parameters.latent import LatentEvaluation, LatentTeacher
from backtrail.sampling.sample import Sampler
from backtrail.teachers.latent_images import load_first_stage

CURVE = {"fd_classifier": "fd_inception_of_curve"}  # what the loops call their curve's distance -> what it is here


def curve_point(sampler: Sampler, e: LatentEvaluation, p: LatentTeacher, device: torch.device) -> Callable[[NetDenoiser], float]:
    """A function from a student to the distance of its first `n_curve` images, on the same seeds and captions at each call."""
    first, measures = load_first_stage(layout.FETCHED_TEACHER, p, device), load_measures(e, device)
    return lambda student: measures.curve_distance(first.images(student, sampler, range(e.n_curve)))
