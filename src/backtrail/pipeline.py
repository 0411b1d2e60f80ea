"""The pipeline as `dvc.yaml` declares it, read without DVC: what a stage reads, which parameters it depends on, and what it makes.

What is read here is what DVC reads: a test compares both. Where a suite's `dvc.yaml` comes from: `laid_down.py`.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backtrail.artifacts import load_yaml
from backtrail.errors import UserError
from backtrail.layout import PARAMS_FILE, PIPELINE_FILE
from backtrail.parameters.base import read

TERM = re.compile(r"\$\{\s*([^}]*?)\s*\}")


@dataclass(frozen=True)
class Declared:
    """A stage: name in DVC, command, the matrix's item ({method, seed}), paths read and made, parameters by dotted key in params.yaml."""

    name: str
    command: str
    item: dict[str, Any]
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]
    cmd: str = field(default="", compare=False)


def stages_of(text: str, params: Mapping[str, Any]) -> Iterator[Declared]:
    """Every stage that a pipeline declares, in the order of the file. params: what the suite's params.yaml says.

    Raises UserError if the pipeline names a parameter that is not there.
    """
    content = load_yaml(text)
    context = {**params, **{key: value for part in content.get("vars", []) for key, value in part.items()}}
    for name, definition in content["stages"].items():
        for item in _items(definition.get("matrix"), context):
            yield _declared(name, definition, item, {**context, "item": item})


def declared(name: str, folder: str | Path = ".") -> Declared:
    """One stage of the suite in `folder` by its name in DVC. Raises UserError that says which there are, or that there is no pipeline."""
    pipeline = Path(folder) / PIPELINE_FILE
    if not pipeline.is_file():
        raise UserError(f"{pipeline} is missing: `backtrail pipeline` lays it down")
    known = {stage.name: stage for stage in stages_of(pipeline.read_text(encoding="utf-8"), read(Path(folder) / PARAMS_FILE))}
    if name not in known:
        base = name.split("@")[0]
        like = [other for other in known if other.split("@")[0] == base] or list(known)
        raise UserError(f"{PIPELINE_FILE} declares no stage {name!r}; it has {', '.join(like[:8])}{' ...' if len(like) > 8 else ''}")
    return known[name]


def _items(matrix: dict[str, Any] | None, context: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The items of a stage's matrix, one without any where it has none; of a mapping, its keys."""
    axes = {key: list(_resolve(values, context)) for key, values in (matrix or {}).items()}
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _declared(name: str, definition: dict[str, Any], item: dict[str, Any], context: Mapping[str, Any]) -> Declared:
    def paths(*keys: str) -> tuple[str, ...]:
        entries = [entry for key in keys for entry in definition.get(key) or []]
        return tuple(str(_resolve(next(iter(entry)) if isinstance(entry, dict) else entry, context)) for entry in entries)

    params = [_resolve(key, context) for key in definition.get("params", []) if not isinstance(key, dict)]
    full = f"{name}@{'-'.join(map(str, item.values()))}" if item else name
    cmd = str(_resolve(definition["cmd"], context))
    return Declared(full, cmd.split()[-1], item, paths("deps"), tuple(params), paths("outs", "metrics", "plots"), cmd)


def _resolve(value: Any, context: Mapping[str, Any]) -> Any:
    """`value` with `${a.b}` and `${a[0]}` replaced as DVC does: a text that is one such term becomes the value itself."""
    if isinstance(value, list):
        return [_resolve(of, context) for of in value]
    if not isinstance(value, str):
        return value
    if whole := TERM.fullmatch(value):
        return _lookup(whole[1], context)
    return TERM.sub(lambda term: str(_lookup(term[1], context)), value)


def _lookup(key: str, context: Mapping[str, Any]) -> Any:
    value: Any = context
    for part in re.findall(r"[^.\[\]]+", key):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(f"{PARAMS_FILE} has no {key}, which {PIPELINE_FILE} names: `backtrail check` says what a suite needs") from None
    return value
