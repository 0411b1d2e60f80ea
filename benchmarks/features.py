"""Images per second through Inception, ours against torch-fidelity's and clean-fid's: `python benchmarks/features.py`.

The same images and weights, each package in processes of its own, as it runs by itself, in turns. The weights are random: no speed depends
on them, and the published file need not be at hand. torch-fidelity is measured where it is installed (`uv pip install torch-fidelity`).
"""

import argparse
import csv
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from bench import apart, markdown
from torch import Tensor, nn

from backtrail.ledger.record import processor
from backtrail.metrics.features import extractor
from backtrail.nets.inception import Inception, read_inception
from backtrail.running.memory import keep_freed_memory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/unit"))
from random_inception import write_random_weights

AIM = 1.5  # times the faster of the others
Features = Callable[[Tensor], Tensor]
Row = dict[str, Any]


def ours(name: str, weights: Path) -> Features:
    """An extractor of the package, in a process set up as a stage's is."""
    keep_freed_memory()
    return extractor(name, weights).features


def torch_fidelity(weights: Path) -> Features:
    """torch-fidelity's net; it resizes as TensorFlow 1 does, inside."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    return torch.inference_mode()(lambda images: net(images)[0])


def clean_fid(weights: Path) -> Features:
    """clean-fid's wrapper and resizing, mode "clean", around the net as a TorchScript program, traced here for want of theirs."""
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import make_resizer

    program = Program(Layers(read_inception(weights)))
    with torch.no_grad():
        torch.jit.trace(program, torch.rand(1, 3, 299, 299)).save(str(weights.parent / "inception-2015-12-05.pt"))
    net, resize = InceptionV3W(str(weights.parent), download=False), make_resizer("PIL", False, "bicubic", (299, 299))

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        resized = [torch.from_numpy(resize(image.numpy())).permute(2, 0, 1) for image in images.permute(0, 2, 3, 1)]
        return net(torch.stack(resized))

    return features


class Layers(nn.Module):
    """What the published program calls `layers`."""

    def __init__(self, net: Inception):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.pooled(x)


class Program(nn.Module):
    """The part of the published program that clean-fid calls."""

    def __init__(self, layers: Layers):
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


# What is measured, by the package and the resizing.
EXTRACTORS: dict[str, Callable[[Path], Features]] = {
    "backtrail, inception": lambda weights: ours("inception", weights),
    "torch-fidelity": torch_fidelity,
    "backtrail, inception-clean": lambda weights: ours("inception-clean", weights),
    "clean-fid": clean_fid,
}
OURS = {"torch-fidelity": "backtrail, inception", "clean-fid": "backtrail, inception-clean"}


def measure(name: str, weights: Path, n: int, threads: int) -> tuple[float, float, np.ndarray]:
    """In a process of its own: images/s once it is warm, the most memory in MB, and the features."""
    import resource

    torch.set_num_threads(threads)
    images = torch.randint(256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = EXTRACTORS[name](weights)
    for _ in range(2):  # TorchScript compiles in both
        features(images)
    began = time.perf_counter()
    found = features(images)
    took = time.perf_counter() - began
    return n / took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, found.numpy()


def compare(n: int, threads: int, turns: int) -> list[Row]:
    """A row per package that is installed; `gain` is ours over it in the same turn, `difference` of the features relative to it."""
    installed = [name for name in EXTRACTORS if name != "torch-fidelity" or importlib.util.find_spec("torch_fidelity")]
    with tempfile.TemporaryDirectory(prefix="backtrail-bench-") as folder:
        weights = Path(folder) / "weights.pth"
        apart(write_random_weights, weights)
        runs: dict[str, list[tuple[float, float, np.ndarray]]] = {name: [] for name in installed}
        for turn in range(turns):
            for name in installed:
                runs[name].append(apart(measure, name, weights, n, threads))
                print(f"{name}, turn {turn + 1}", file=sys.stderr)
    rows = []
    for name in installed:
        rate, memory, found = zip(*runs[name], strict=True)
        row: Row = {"package": name, "images_per_s": median(rate), "peak_mb": max(memory)}
        if name in OURS:
            against = runs[OURS[name]]
            row["gain"] = median(mine[0] / other for mine, other in zip(against, rate, strict=True))
            row["difference"] = float(np.linalg.norm(against[0][2] - found[0]) / np.linalg.norm(found[0]))
        rows.append(row)
    return rows


def main(words: list[str] | None = None) -> None:
    """Measure, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64, help="in a batch")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads; by default all")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("reports/benchmark"), help="folder for features.csv")
    arguments = parser.parse_args(words)
    rows = compare(arguments.images, arguments.threads, arguments.turns)
    print(f"{processor()}, torch {torch.__version__}, {arguments.threads} thread(s), batches of {arguments.images}\n")
    print(table(rows))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / "features.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["package", "images_per_s", "peak_mb", "gain", "difference"])
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = ["package", "images/s", "MB", "ours / this", f">= {AIM}", "features differ by"]
    lines = []
    for row in rows:
        line = [row["package"], f"{row['images_per_s']:.1f}", f"{row['peak_mb']:.0f}"]
        verdict = [f"{row['gain']:.2f}", "yes" if row["gain"] >= AIM else "no", f"{row['difference']:.1e}"] if "gain" in row else [""] * 3
        lines.append(line + verdict)
    return markdown(head, lines)


if __name__ == "__main__":
    main()
