"""Feature extractors and metrics on a device against the CPU; weights of Inception and of the classifier are random."""

import sys
import tempfile
from functools import cache, partial
from pathlib import Path

import torch
from gpu_results import Row, Rows, Settings
from torch import Tensor

from backtrail.metrics.classifier import save_classifier
from backtrail.metrics.evaluate import METRICS, Sets
from backtrail.metrics.features import EXTRACTORS, Extractor, extractor
from backtrail.metrics.frechet import factor, moments
from backtrail.metrics.reference import Reference
from backtrail.nets.classifier import Classifier
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.running.memory import keep_freed_memory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/unit"))
from random_inception import write_random_weights

OF_FEATURES, OF_DISTANCES, OF_SHARES = 1e-3, 1e-2, 0.05  # bounds: relative, relative, absolute (one image of twenty)
SHARES = ("precision", "recall", "density", "coverage")
KEYS = tuple(f"{name}, {what}: against the CPU" for name in EXTRACTORS for what in ("features", *METRICS))


def pictures(n: int, seed: int, contrast: float) -> Tensor:
    """Coarse random images, uint8 [n, 3, 32, 32]: features of white noise alone would hardly differ."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=draw).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return ((coarse - 0.5) * contrast * 255 + 127.5).clamp(0, 255).to(torch.uint8)


def loaded(name: str, device: torch.device) -> Extractor:
    """An extractor on a device, with random weights where they are no part of the environment."""
    with tempfile.TemporaryDirectory(prefix="backtrail-gpu-") as folder:
        path = Path(folder) / "weights"
        if name == "classifier":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                save_classifier(path, Classifier(3, 10, 16))
        elif name.startswith("inception"):
            write_random_weights(path)
        return extractor(name, path, device)


def against_cpu(s: Settings) -> Rows:
    """The features of each extractor, and each metric of them."""
    keep_freed_memory()
    n = 8 if s.tiny else 48
    p = section(Metrics, "metrics", s.params).model_copy(update={"n_pairwise": n, "k_precision": 2, "k_density": 2})
    images, real = pictures(n, 0, 0.8), pictures(n, 1, 1.0)

    @cache
    def sets(name: str, device: torch.device) -> Sets:
        net = loaded(name, device)
        of_real = net.features(real)
        mean, covariance = moments(of_real)
        return Sets(net.features(images), Reference(mean, factor(covariance), of_real, n, ""), p)

    def row(name: str, what: str) -> Row:
        found, expected = (sets(name, device) for device in (s.on, torch.device("cpu")))
        if what == "features":
            error, bound = ((found.features - expected.features).norm() / expected.features.norm()).item(), OF_FEATURES
        else:
            a, b = METRICS[what](found), METRICS[what](expected)
            error, bound = (abs(a - b), OF_SHARES) if what in SHARES else (abs(a - b) / max(abs(b), 1e-6), OF_DISTANCES)
        return {"error": error, "of": what, "bound": bound, "within": error <= bound}

    return {f"{name}, {what}: against the CPU": partial(row, name, what) for name in EXTRACTORS for what in ("features", *METRICS)}
