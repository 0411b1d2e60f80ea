"""What a suite measures with: extractors with the suite's weights, and the reference statistics in their features."""

from pathlib import Path

import torch

from backtrail import layout
from backtrail.metrics.evaluate import Measure
from backtrail.metrics.features import Extractor, extractor
from backtrail.metrics.reference import load_reference

INCEPTION = f"{layout.INCEPTION}/weights-inception-2015-12-05-6726825d.pth"  # the registry's name for it
WEIGHTS = {"classifier": layout.CLASSIFIER, "inception": INCEPTION, "inception-clean": INCEPTION}


def load_extractor(name: str, device: torch.device | str = "cpu", folder: str | Path = ".") -> Extractor:
    """An extractor with the weights of the suite in `folder`. Raises UserError if a file is absent or another."""
    return extractor(name, Path(folder) / WEIGHTS[name] if name in WEIGHTS else None, device)


def load_measure(name: str, device: torch.device | str = "cpu", folder: str | Path = ".") -> Measure:
    """An extractor with the reference statistics in its features. Raises UserError if a file is absent or of another extractor."""
    features = load_extractor(name, device, folder)
    return features, load_reference(Path(folder) / layout.reference(name), features)
