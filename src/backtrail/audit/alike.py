"""How far two results of one stage lie apart, where a GPU or another processor rounds otherwise. Near is never called the same.

Images are compared one by one: image i comes from seed i in both, so the two must lie far nearer to one another than two images of one
set do. A set of other images with the same mean and spread is as far off as they are.
"""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backtrail.nested import is_number, leaves
from backtrail.tensors import load_tensors

CORRELATION = 0.9  # least, of weights and other tensors, element by element


def apart(was: Path, now: Path) -> float:
    """The greatest relative difference between two files or folders: of a tensor's mean and spread, of a number, of an image from its own.

    0 for the same bytes; infinite where names, shapes, rows or texts differ, or where tensors do not follow one another.
    """
    if was.is_dir():
        names = {f.relative_to(was) for f in was.rglob("*") if f.is_file()}
        if names != {f.relative_to(now) for f in now.rglob("*") if f.is_file()}:
            return math.inf
        return max((apart(was / name, now / name) for name in names), default=0.0)
    if not now.is_file():
        return math.inf
    if was.read_bytes() == now.read_bytes():
        return 0.0
    if was.suffix == ".safetensors":
        return _archives_apart(was, now)
    if was.suffix not in (".csv", ".json"):
        return math.inf
    first, second = list(_values(was)), list(_values(now))
    return max((_numbers_apart(a, b) for a, b in zip(first, second, strict=True)), default=0.0) if len(first) == len(second) else math.inf


def _archives_apart(was: Path, now: Path) -> float:
    first, second = (load_tensors(path, digested=False)[0] for path in (was, now))
    if {name: (of.shape, of.dtype) for name, of in first.items()} != {name: (of.shape, of.dtype) for name, of in second.items()}:
        return math.inf
    return max((images_apart if of.dtype == torch.uint8 else tensors_apart)(of, second[name]) for name, of in first.items())


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


def tensors_apart(was: Tensor, now: Tensor) -> float:
    """The difference of mean and spread as a share of the greater; infinite if the tensors do not follow one another element by element."""
    first, second = was.double().flatten(), now.double().flatten()
    finite = torch.isfinite(first)
    if not torch.equal(finite, torch.isfinite(second)):
        return math.inf
    first, second = first[finite], second[finite]
    if not len(first):
        return 0.0
    scale = max(float(first.std(correction=0)), abs(float(first.mean())), 1e-6)
    a, b = first - first.mean(), second - second.mean()
    flat = float(a.norm()) <= 1e-6 * scale or float(b.norm()) <= 1e-6 * scale
    if not flat and float(a @ b) < CORRELATION * float(a.norm() * b.norm()):
        return math.inf
    return max(abs(float(of(first) - of(second))) / scale for of in (torch.mean, lambda x: x.std(correction=0)))


def _numbers_apart(a: tuple[str, Any], b: tuple[str, Any]) -> float:
    (name, x), (other, y) = a, b
    if (name, x) == (other, y):
        return 0.0
    if name != other or isinstance(x, str) or isinstance(y, str):
        return math.inf
    if math.isnan(x) or math.isnan(y):
        return 0.0 if math.isnan(x) and math.isnan(y) else math.inf
    return abs(x - y) / max(abs(x), 1e-6)


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of everything that a table or a JSON file says; digests of tensors are no numbers that could be near."""
    with open(path, newline="", encoding="utf-8") as file:
        if path.suffix == ".json":
            content: Any = json.load(file)
        else:
            rows = csv.DictReader(file)
            content = [{key: _number(text) for key, text in row.items() if key not in ("digest", "sha256")} for row in rows]
    for place, of in leaves(content):
        yield "/".join(place), of if is_number(of) else str(of)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except (TypeError, ValueError):
        return str(text)
