"""Two runs compared: the first link at which they part, and why.

A run is a suite's folder, a git revision of this suite, or one stage's record.
"""

from pathlib import Path
from typing import Any

from backtrail import layout
from backtrail.artifacts import load_json
from backtrail.audit.published import origin
from backtrail.audit.runs import Run, object_of, open_run
from backtrail.errors import UserError
from backtrail.ledger.ledger import Stage
from backtrail.nested import differences

ENVIRONMENT = ("python", "packages", "environment_sha256", "determinism", "host", "device", "processes")
NO_METRIC_FILE = "is no metric file: torn, or of another form"
LEAST_SURE = "nothing that is recorded differs: the stage does not make the same bytes on every run"


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
    """What is left to differ where a record is not at hand: the processor, by the record or the note that is committed beside results."""
    made_on = [_processor(run, record) for run, record in zip((a, b), records, strict=True)]
    if all(made_on) and made_on[0] != made_on[1]:
        return f"processor: {made_on[0]!r} / {made_on[1]!r}"
    missing = " and ".join(run.name for run, record in zip((a, b), records, strict=True) if not record)
    known = "".join(f", and {run.name} ran on {found}" for run, found in zip((a, b), made_on, strict=True) if found)
    return (
        f"the same command, parameters, code and inputs: another processor or environment, most likely; the record of {missing} is not at "
        f"hand to say so{known}; `dvc fetch --all-commits` brings records"
    )


def _processor(run: Run, record: dict[str, Any]) -> str:
    return str((record.get("host") or {}).get("processor") or " and ".join(origin(run).processors))


def _md5(stage: Stage, path: str) -> str | None:
    return stage.deps[path].md5 if path in stage.deps else None


def _unlike(name: str, was: Any, now: Any) -> list[str]:
    """The places at which two values differ, a line each."""
    return [f"{'.'.join((name, *place))}: {x!r} / {y!r}" for place, x, y in differences(was, now)]


def _numbers(a: Run, b: Run) -> list[dict[str, Any]]:
    """Values of metric files that differ. One that is none in either run is named in place of its values."""
    found = []
    for stage in a.stages.values():
        for path in stage.products:
            if path.startswith(f"{layout.METRICS}/") and stage.name in b.stages:
                values = [_values(run, path) for run in (a, b)]
                if None in values:
                    said = [NO_METRIC_FILE if of is None else "can be read" for of in values]
                    found.append({"file": path, "value": "as a whole", "first": said[0], "second": said[1]})
                    continue
                unlike = differences(*values)
                found += [{"file": path, "value": ".".join(place), "first": was, "second": now} for place, was, now in unlike]
    return found


def _values(run: Run, path: str) -> Any:
    """The values of a metric file, {} where a run has no such file; None where it is torn or of another form."""
    try:
        content = {} if (text := run.read(path)) is None else object_of(text)
    except UnicodeDecodeError:
        return None
    return None if content is None else content.get("values", {})


def _compare_records(first: str, second: str) -> dict[str, Any]:
    """Two records of one stage."""
    a, b = (load_json(name) for name in (first, second))
    for name, of in ((first, a), (second, b)):
        if not isinstance(of, dict) or "outputs" not in of:
            raise UserError(f"{name} is no record of a stage: name two of {layout.RECORDS}, two folders, or two git revisions")
    keys = ("stage", "parameters", "inputs", "code", "commit", *ENVIRONMENT, "outputs")
    said = [one for key in keys for one in _unlike(key, a.get(key), b.get(key))]
    return {"first": first, "second": second, "parted": [{"stage": a.get("stage"), "reasons": said}] if said else [], "numbers": []}
