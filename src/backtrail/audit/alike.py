"""Whether two results of one stage on a GPU, where bytes differ from run to run, say the same."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backtrail.tensors import load_tensors

TOLERANCE = 0.05  # relative; of a tensor's mean and standard deviation, and of every number in a table or a JSON file


def alike(was: Path, now: Path, tolerance: float) -> bool:
    """The same files, tensors and rows, and numbers that differ by no more than `tolerance` times their size."""
    if was.is_dir():
        names = {f.relative_to(was) for f in was.rglob("*") if f.is_file()}
        return names == {f.relative_to(now) for f in now.rglob("*") if f.is_file()} and all(
            alike(was / n, now / n, tolerance) for n in names
        )
    if not now.is_file():
        return False
    if was.suffix not in (".safetensors", ".csv", ".json"):
        return was.read_bytes() == now.read_bytes()
    first, second = list(_facts(was)), list(_facts(now))
    return len(first) == len(second) and all(_same(a, b, tolerance) for a, b in zip(first, second, strict=True))


def _same(a: tuple[str, Any, float], b: tuple[str, Any, float], tolerance: float) -> bool:
    (name, x, scale), (other, y, _) = a, b
    if name != other or isinstance(x, str) or isinstance(y, str):
        return (name, x) == (other, y)
    return (math.isnan(x) and math.isnan(y)) or abs(x - y) <= tolerance * max(scale, 1e-6)


def _facts(path: Path) -> Iterator[tuple[str, Any, float]]:
    """(name, value, size to which a difference is held) of everything that a file says."""
    if path.suffix == ".safetensors":
        for name, tensor in sorted(load_tensors(path, digested=False)[0].items()):
            values = tensor.double()
            std, mean = float(values.std(correction=0)), float(values.mean())
            scale = max(std, abs(mean))
            yield f"{name} {tuple(tensor.shape)} mean", mean, scale
            yield f"{name} std", std, scale
    elif path.suffix == ".json":
        yield from _leaves(json.loads(path.read_text(encoding="utf-8")), "")
    else:
        with open(path, newline="", encoding="utf-8") as file:
            for i, row in enumerate(csv.DictReader(file)):
                yield from _leaves({key: _number(text) for key, text in row.items() if key != "digest"}, str(i))


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any, float]]:
    if isinstance(value, dict | list):
        for key, of in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(of, f"{place}/{key}")
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        yield place, value if number else str(value), abs(value) if number else 0.0


def _number(text: str) -> float | str:
    try:
        return float(text)
    except (TypeError, ValueError):
        return str(text)
