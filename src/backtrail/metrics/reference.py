"""What samples are compared with: mean, covariance and some features of training images, and where they come from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backtrail.errors import UserError
from backtrail.metrics.features import Extractor
from backtrail.metrics.frechet import factor, moments
from backtrail.parameters.metrics import Metrics
from backtrail.randomness import generator
from backtrail.tensors import load_tensors, save_tensors


@dataclass(frozen=True)
class Reference:
    """Statistics of n_images training images in one extractor's features.

    mean: float64 [d]. factor: float64 [d, rank], factor @ factor.T is the covariance. features: float32 [n, d] of the first n of them, for
    the metrics over pairs. sha256: digest of the file that it was read from.
    """

    mean: Tensor
    factor: Tensor
    features: Tensor
    n_images: int
    sha256: str


def choose(n_images: int, n: int) -> Tensor:
    """n of n_images indices without repetition, int64, the same in every run; a smaller n is a prefix of a larger one."""
    return torch.randperm(n_images, generator=generator(0, "reference"))[:n]


def save_reference(path: str | Path, extractor: Extractor, images: Tensor, p: Metrics) -> None:
    """Compute the statistics of `p.n_reference` of the training images uint8 [N, C, H, W] and write them; of all N if N is smaller.

    Raises UserError if the images are none that the extractor takes.
    """
    chosen = images[choose(len(images), p.n_reference)]
    features = extractor.features(chosen, p.batch_size)
    mean, covariance = moments(features)
    metadata = {
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
        "resize": extractor.resize,
        "dtype": extractor.dtype,
        "batch_size": p.batch_size,
        "n_images": len(chosen),
        "images_sha256": hashlib.sha256(chosen.numpy().tobytes()).hexdigest(),
    }
    save_tensors(path, {"mean": mean, "factor": factor(covariance), "features": features[: p.n_pairwise]}, metadata)


def load_reference(path: str | Path, extractor: Extractor) -> Reference:
    """Read statistics back for use with `extractor`.

    Raises UserError if the file is absent or broken, or was made in other features.
    """
    tensors, metadata = load_tensors(path)
    expected = {"extractor": extractor.name, "extractor_sha256": extractor.digest, "resize": extractor.resize, "dtype": extractor.dtype}
    for key, value in expected.items():
        if (found := metadata.get(key)) != value:
            raise UserError(f"{path} should have {key} {value!r}; found {found!r}: run the stage `reference` again")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return Reference(tensors["mean"], tensors["factor"], tensors["features"], metadata["n_images"], digest)
