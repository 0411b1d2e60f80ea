"""Images of latent models: sampled, decoded by the first stage, and compared with real ones."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backtrail.denoiser import NetDenoiser
from backtrail.metrics.features import Extractor
from backtrail.metrics.frechet import frechet_distance
from backtrail.metrics.reference import Reference
from backtrail.nets.autoencoder import Autoencoder
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

    def curve_point(self, sampler: Sampler, n: int, extractor: Extractor, reference: Reference) -> Callable[[NetDenoiser], float]:
        """A function from a student to its Frechet distance in the features of `extractor`, on the same n seeds at each call."""

        def distance(student: NetDenoiser) -> float:
            return frechet_distance(extractor.features(self.images(student, sampler, n)), reference.mean, reference.factor)

        return distance
