"""What samples are compared with: mean, covariance and some features of training images, and where they come from."""

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backtrail.artifacts import file_digest
from backtrail.errors import UserError
from backtrail.metrics.features import Extractor
from backtrail.metrics.frechet import factor, moments
from backtrail.metrics.pairs import Side
from backtrail.parameters.metrics import Metrics
from backtrail.randomness import generator
from backtrail.tensors import load_tensors, save_tensors


@dataclass(frozen=True)
class Reference:
    """Statistics of n_images training images in one extractor's features; None if they are published ones, which do not say.

    mean: float64 [d]. factor: float64 [d, rank], factor @ factor.T is the covariance. features: float32 [n, d] of the first n of them, for
    the metrics over pairs. sha256: digest of the file that it was read from.
    """

    mean: Tensor
    factor: Tensor
    features: Tensor
    n_images: int | None
    sha256: str

    def side(self, n: int) -> Side:
        """The first n of the features, or all if there are fewer, for metrics over pairs; all of them are prepared once."""
        return self._whole if n >= len(self.features) else Side(self.features[:n])

    @cached_property
    def _whole(self) -> Side:
        return Side(self.features)


def choose(n_images: int, n: int) -> Tensor:
    """n of n_images indices without repetition, int64, the same in every run; a smaller n is a prefix of a larger one."""
    return torch.randperm(n_images, generator=generator(0, "reference"))[:n]


def save_reference(path: str | Path, extractor: Extractor, images: Tensor, p: Metrics, published: Path | None = None) -> None:
    """Compute the statistics of `p.n_reference` of the training images uint8 [N, C, H, W] and write them; of all N if N is smaller.

    With `published`, an npz file, mean and covariance are that file's, and only the features for the metrics over pairs are computed.
    Raises UserError if the images are none that the extractor takes, or the file does not hold what it should.
    """
    chosen = images[choose(len(images), p.n_reference if published is None else p.n_pairwise)]
    features = extractor.features(chosen, p.batch_size)
    mean, covariance = moments(features) if published is None else read_moments(published, extractor.dimension)
    metadata: dict[str, Any] = {
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
        "resize": extractor.resize,
        "dtype": extractor.dtype,
        "batch_size": p.batch_size,
        "n_images": len(chosen) if published is None else None,
        "images_sha256": hashlib.sha256(chosen.numpy().tobytes()).hexdigest(),
    }
    if published is not None:
        metadata["published"] = {"file": published.name, "sha256": file_digest(published)}
    save_tensors(path, {"mean": mean, "factor": factor(covariance), "features": features[: p.n_pairwise]}, metadata)


def read_moments(path: str | Path, dimension: int) -> tuple[Tensor, Tensor]:
    """Mean [d] and covariance [d, d], float64, from an npz file with `mu` and `sigma` (EDM's); pickles in it are refused.

    Raises UserError if it is no such file, or not finite and symmetric of that dimension.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (np.asarray(file[key], dtype=np.float64) for key in ("mu", "sigma"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage `fetch-inception` again") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no reference statistics `mu` and `sigma` ({error}): fetch it again") from None
    if mean.shape != (dimension,) or covariance.shape != (dimension, dimension):
        found = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise UserError(f"{path} should hold {dimension} means and {dimension}x{dimension} covariances; found {found}: fetch it again")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all() and np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9)):
        raise UserError(f"{path} holds statistics that are not finite, or a covariance that is not symmetric: fetch it again")
    return torch.from_numpy(mean), torch.from_numpy((covariance + covariance.T) / 2)


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
