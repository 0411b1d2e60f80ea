"""Images of latent models: sampled, decoded by the first stage, and compared with real ones."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backtrail import layout
from backtrail.denoiser import NetDenoiser
from backtrail.metrics.alignment import judge_extractor
from backtrail.metrics.frechet import frechet_distance
from backtrail.metrics.reference import load_reference
from backtrail.nets.autoencoder import Autoencoder, load_autoencoder
from backtrail.sampling.sample import Sampler, sample
from backtrail.teachers.autoencoder import decode


@dataclass(frozen=True)
class Decoder:
    """The first stage behind a latent model, where it computes."""

    net: Autoencoder
    device: torch.device

    def images(self, model: NetDenoiser, sampler: Sampler, n: int) -> Tensor:
        """The first n images of a model, uint8 [n, C, H, W]: image i depends on seed i and its caption alone."""
        return decode(self.net, sample(model, sampler, range(n), model.image_shape, model.conditions, device=self.device))


def load_decoder(device: torch.device) -> Decoder:
    """The suite's first stage, where `device` says. Raises UserError if its file is absent or another."""
    return Decoder(load_autoencoder(layout.AUTOENCODER)[0].to(device), device)


def curve_point(sampler: Sampler, n_images: int, device: torch.device) -> Callable[[NetDenoiser], float]:
    """A function from a student to the Frechet distance of its decoded images in the judge's features, on the same seeds at each call."""
    decoder, extractor = load_decoder(device), judge_extractor(layout.JUDGE)
    reference = load_reference(layout.reference(extractor.name), extractor)

    def distance(student: NetDenoiser) -> float:
        return frechet_distance(extractor.features(decoder.images(student, sampler, n_images)), reference.mean, reference.factor)

    return distance
