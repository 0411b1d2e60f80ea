"""Whether two results of one stage say nearly the same, where a GPU or another processor rounds otherwise. Never called the same.

Images are compared one by one: image i comes from seed i in both, so the two must lie far nearer to one another than two images of one
set do. A set of other images with the same mean and spread does not pass.
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

TOLERANCE = 0.05  # relative; of a tensor's mean and spread, of every number in a table or a JSON file, and of an image's distance to others
CORRELATION = 0.9  # least, of weights and other tensors, element by element


def alike(was: Path, now: Path, tolerance: float = TOLERANCE) -> bool:
    """The same files, tensors and rows, and numbers that differ by no more than `tolerance` times their size."""
    if was.is_dir():
        names = {f.relative_to(was) for f in was.rglob("*") if f.is_file()}
        return names == {f.relative_to(now) for f in now.rglob("*") if f.is_file()} and all(
            alike(was / n, now / n, tolerance) for n in names
        )
    if not now.is_file():
        return False
    if was.suffix == ".safetensors":
        return _archives_alike(was, now, tolerance)
    if was.suffix not in (".csv", ".json"):
        return was.read_bytes() == now.read_bytes()
    first, second = list(_values(was)), list(_values(now))
    return len(first) == len(second) and all(_same(a, b, tolerance) for a, b in zip(first, second, strict=True))


def _archives_alike(was: Path, now: Path, tolerance: float) -> bool:
    first, second = (load_tensors(path, digested=False)[0] for path in (was, now))
    if {name: (of.shape, of.dtype) for name, of in first.items()} != {name: (of.shape, of.dtype) for name, of in second.items()}:
        return False
    return all((images_alike if of.dtype == torch.uint8 else tensors_alike)(of, second[name], tolerance) for name, of in first.items())


def images_alike(was: Tensor, now: Tensor, tolerance: float) -> bool:
    """Whether uint8 images [n, C, H, W] are those of the same seeds, each held against its own.

    Its distance, as a share of the median distance of an image to the next one of its set; one image among twenty may be farther off.
    """
    if len(was) < 2:
        return bool(torch.equal(was, now))
    first, second = was.double().flatten(1), now.double().flatten(1)
    apart, typical = (first - second).norm(dim=1), (first - first.roll(1, 0)).norm(dim=1).median()
    return bool(apart.quantile(0.95) <= tolerance * typical)


def tensors_alike(was: Tensor, now: Tensor, tolerance: float) -> bool:
    """Whether two tensors have the same mean and spread, within `tolerance` of the greater, and follow one another element by element."""
    first, second = was.double().flatten(), now.double().flatten()
    finite = torch.isfinite(first)
    if not torch.equal(finite, torch.isfinite(second)):
        return False
    first, second = first[finite], second[finite]
    if not len(first):
        return True
    scale = max(float(first.std(correction=0)), abs(float(first.mean())), 1e-6)
    near = [abs(float(of(first) - of(second))) <= tolerance * scale for of in (torch.mean, lambda x: x.std(correction=0))]
    a, b = first - first.mean(), second - second.mean()
    flat = float(a.norm()) <= 1e-6 * scale or float(b.norm()) <= 1e-6 * scale
    return all(near) and (flat or float(a @ b) >= CORRELATION * float(a.norm() * b.norm()))


def _same(a: tuple[str, Any], b: tuple[str, Any], tolerance: float) -> bool:
    (name, x), (other, y) = a, b
    if name != other or isinstance(x, str) or isinstance(y, str):
        return (name, x) == (other, y)
    return (math.isnan(x) and math.isnan(y)) or abs(x - y) <= tolerance * max(abs(x), 1e-6)


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
