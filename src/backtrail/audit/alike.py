"""How far two results of one stage lie apart, where a GPU or another processor rounds otherwise. Near is never called the same.

Images are compared one by one: image i comes from seed i in both, so the two must lie far nearer to one another than two images of one
set do. A set of other images with the same mean and spread is as far off as they are.
"""

import csv
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backtrail.nested import Place, is_number, leaves
from backtrail.tensors import load_tensors


def apart(was: Path, now: Path) -> float:
    """The greatest relative difference between two files or folders: of tensors, of a number, of an image from its own.

    0 for the same bytes; infinite where names, shapes, rows or texts differ.
    """
    if was.is_dir():
        names = {f.relative_to(was) for f in was.rglob("*") if f.is_file()}
        if names != {f.relative_to(now) for f in now.rglob("*") if f.is_file()}:
            return math.inf
        return max((apart(was / name, now / name) for name in names), default=0.0)
    if not (was.is_file() and now.is_file()):
        return math.inf
    if was.read_bytes() == now.read_bytes():
        return 0.0
    if was.suffix == ".safetensors":
        return _archives_apart(was, now)
    if was.suffix not in (".csv", ".json"):
        return math.inf
    return max(values_apart(_content(was), _content(now)), default=0.0)


def values_apart(was: Any, now: Any) -> list[float]:
    """The relative differences of two nested values, place by place; infinite where anything differs that is no number."""
    first, second = ([(place, of if is_number(of) else str(of)) for place, of in leaves(one)] for one in (was, now))
    return [_numbers_apart(a, b) for a, b in zip(first, second, strict=True)] if len(first) == len(second) else [math.inf]


def _archives_apart(was: Path, now: Path) -> float:
    first, second = (load_tensors(path, digested=False)[0] for path in (was, now))
    if {name: (of.shape, of.dtype) for name, of in first.items()} != {name: (of.shape, of.dtype) for name, of in second.items()}:
        return math.inf
    images = {name for name, of in first.items() if of.dtype == torch.uint8 and of.ndim == 4}
    others = [(of, second[name]) for name, of in first.items() if name not in images]
    return max([tensors_apart(others), *(images_apart(first[name], second[name]) for name in images)])


def images_apart(was: Tensor, now: Tensor) -> float:
    """How far uint8 images [n, C, H, W] lie from those of the same seeds, each from its own: all but one among twenty, or their mean.

    As a share of the median distance of an image to the next one of its set.
    """
    first, second = was.double().flatten(1), now.double().flatten(1)
    if torch.equal(first, second):
        return 0.0
    typical = float((first - first.roll(1, 0)).norm(dim=1).median())
    own = (first - second).norm(dim=1)
    return max(float(own.quantile(0.95)), float(own.mean())) / typical if typical else math.inf


def tensors_apart(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """The length of the difference of all tensors of a file, taken as one vector, as a share of the first one's length.

    As one, because a bias near nothing may turn its sign by rounding. Infinite where one is finite and the other is not.
    """
    square, length = 0.0, 0.0
    for was, now in pairs:
        first, second = was.double(), now.double()
        finite = torch.isfinite(first)
        if not torch.equal(finite, torch.isfinite(second)):
            return math.inf
        square += float((first - second)[finite].square().sum())
        length += float(first[finite].square().sum())
    return math.sqrt(square / length) if length else (math.inf if square else 0.0)


def _numbers_apart(a: tuple[Place, Any], b: tuple[Place, Any]) -> float:
    (name, x), (other, y) = a, b
    if (name, x) == (other, y):
        return 0.0
    if name != other or isinstance(x, str) or isinstance(y, str):
        return math.inf
    if math.isnan(x) or math.isnan(y):
        return 0.0 if math.isnan(x) and math.isnan(y) else math.inf
    return abs(x - y) / max(abs(x), 1e-6)


def _content(path: Path) -> Any:
    """What a table or a JSON file says; digests of tensors are no numbers that could be near."""
    with open(path, newline="", encoding="utf-8") as file:
        if path.suffix == ".json":
            return json.load(file)
        return [{key: _number(text) for key, text in row.items() if key not in ("digest", "sha256")} for row in csv.DictReader(file)]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except (TypeError, ValueError):
        return str(text)
