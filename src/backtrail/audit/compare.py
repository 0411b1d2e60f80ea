"""Two runs compared: the first link at which they part, and why.

A run is a suite's folder, a git revision of this suite, or one stage's record.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backtrail.errors import UserError
from backtrail.layout import GATHERED, LOCK_FILE
from backtrail.ledger.gathered import gathered
from backtrail.ledger.ledger import Stage, parse_lock
from backtrail.ledger.repository import cached, file_at
from backtrail.nested import differences

ENVIRONMENT = ("python", "packages", "environment_sha256", "determinism", "host", "device", "processes")
LEAST_SURE = "nothing that is recorded differs: the stage does not make the same bytes on every run"


@dataclass(frozen=True)
class Run:
    """One side of the comparison: a name, its stages, and a way to read one of its text files (None where it is not there)."""

    name: str
    stages: dict[str, Stage]
    read: Callable[[str], str | None]

    @functools.cached_property
    def _gathered(self) -> dict[str, bytes]:
        return gathered(self.read(GATHERED) or "")

    def record(self, stage: Stage) -> dict[str, Any]:
        text = self.read(stage.record) or self._gathered.get(stage.record)
        try:
            found = json.loads(text or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def open_run(name: str, folder: Path) -> Run:
    """A suite's folder, or a revision of the suite in `folder`. Raises UserError if it is neither."""
    place = Path(name)
    if (place / LOCK_FILE).is_file():
        text = (place / LOCK_FILE).read_text(encoding="utf-8")
        return Run(name, parse_lock(text, str(place / LOCK_FILE)), lambda path: _text(place / path))
    lock = file_at(folder, name, LOCK_FILE)
    if lock is None:
        raise UserError(f"{name} is neither a folder nor a git revision with a {LOCK_FILE} in it (`git log -- {LOCK_FILE}`)")
    stages = parse_lock(lock.decode(), f"{name}:{LOCK_FILE}")
    digests = {path: entry.md5 for stage in stages.values() for path, entry in stage.outs.items()}
    # Records and metrics lie in the commit, or in DVC's cache under the digest that the commit's lock names.
    return Run(name, stages, lambda path: _decoded(file_at(folder, name, path) or cached(folder, digests.get(path, ""))))


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _decoded(content: bytes | None) -> str | None:
    return None if content is None else content.decode()


def compare(first: str, second: str, folder: str | Path = ".") -> dict[str, Any]:
    """Where two runs part: the first stages whose results differ though what they read is the same, each with the reasons."""
    if first.endswith(".json") and second.endswith(".json"):
        return _compare_records(first, second)
    a, b = open_run(first, Path(folder)), open_run(second, Path(folder))
    shared = [name for name, stage in a.stages.items() if name in b.stages and not stage.keeps_books]
    differing = [name for name in shared if _results(a.stages[name]) != _results(b.stages[name])]
    changed = {path for name in differing for path in a.stages[name].outs}
    parted = [name for name in differing if not any(_inside(dep, changed) for dep in a.stages[name].deps)]
    return {
        "first": first,
        "second": second,
        "same": [name for name in shared if name not in differing],
        "parted": [{"stage": name, "reasons": reasons(a, b, name)} for name in parted],
        "following": [name for name in differing if name not in parted],
        "only_first": [name for name in a.stages if name not in b.stages],
        "only_second": [name for name in b.stages if name not in a.stages],
        "numbers": _numbers(a, b),
    }


def _results(stage: Stage) -> dict[str, str]:
    return {path: stage.outs[path].md5 for path in stage.products}


def _inside(path: str, changed: set[str]) -> bool:
    return any(path == of or path.startswith(of + "/") or of.startswith(path + "/") for of in changed)


def reasons(a: Run, b: Run, name: str) -> list[str]:
    """Why the results of a stage differ: command, parameters, code, inputs; where none of them does, the environment."""
    first, second = a.stages[name], b.stages[name]
    records = a.record(first), b.record(second)
    said = [] if first.cmd == second.cmd else [f"command: {first.cmd} / {second.cmd}"]
    said += [f"parameter {'.'.join(place)}: {was!r} / {now!r}" for place, was, now in differences(first.params, second.params)]
    said += _code(a, b, name)
    made = [path for path in first.deps.keys() | second.deps.keys() if _md5(first, path) != _md5(second, path)]
    said += [f"input: {path}" for path in sorted(made)]
    if not said and all(records):
        said = [one for key in ENVIRONMENT for one in _unlike(key, records[0].get(key), records[1].get(key))]
        return said or [LEAST_SURE]
    return said or [_no_record(a, b, records)]


def _code(a: Run, b: Run, name: str) -> list[str]:
    """The files of code that differ, or that some do where the records are not at hand; what the lock calls the same code is the same."""
    first, second = a.stages[name], b.stages[name]
    if first.code == second.code:
        return []
    files = (a.record(first).get("code", {}), b.record(second).get("code", {}))
    if not all(files):
        return [f"code: digest {first.code or 'unknown'} / {second.code or 'unknown'}"]
    return [f"code: {file}" for file in sorted(files[0].keys() | files[1].keys()) if files[0].get(file) != files[1].get(file)]


def _no_record(a: Run, b: Run, records: tuple[dict[str, Any], dict[str, Any]]) -> str:
    missing = " and ".join(run.name for run, record in zip((a, b), records, strict=True) if not record)
    machine = next((f", and ran on {record['host']['processor']} in the other" for record in records if record.get("host")), "")
    return (
        f"the same command, parameters, code and inputs: another processor or environment, most likely; the record of {missing} is not at "
        f"hand to say so{machine}; `dvc fetch --all-commits` brings records"
    )


def _md5(stage: Stage, path: str) -> str | None:
    return stage.deps[path].md5 if path in stage.deps else None


def _unlike(name: str, was: Any, now: Any) -> list[str]:
    """The places at which two values differ, a line each."""
    return [f"{'.'.join((name, *place))}: {x!r} / {y!r}" for place, x, y in differences(was, now)]


def _numbers(a: Run, b: Run) -> list[dict[str, Any]]:
    """Values of metric files that differ."""
    found = []
    for stage in a.stages.values():
        for path in stage.products:
            if path.startswith("results/metrics/") and stage.name in b.stages:
                values = [json.loads(text).get("values", {}) if (text := run.read(path)) else {} for run in (a, b)]
                unlike = differences(*values)
                found += [{"file": path, "value": ".".join(place), "first": was, "second": now} for place, was, now in unlike]
    return found


def _compare_records(first: str, second: str) -> dict[str, Any]:
    """Two records of one stage."""
    texts = [_text(Path(name)) for name in (first, second)]
    for name, text in zip((first, second), texts, strict=True):
        if text is None:
            raise UserError(f"{name} is missing: name two records, two folders, or two git revisions")
    a, b = (json.loads(text or "{}") for text in texts)
    keys = ("stage", "parameters", "inputs", "code", "commit", *ENVIRONMENT, "outputs")
    said = [one for key in keys for one in _unlike(key, a.get(key), b.get(key))]
    return {"first": first, "second": second, "parted": [{"stage": a.get("stage"), "reasons": said}] if said else [], "numbers": []}
