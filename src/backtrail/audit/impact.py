"""What rests on a file: the stages, the results, and the numbers that change if it is wrong."""

from pathlib import Path
from typing import Any

from backtrail.errors import UserError
from backtrail.layout import PARAMS_FILE
from backtrail.ledger.confined import open_confined
from backtrail.ledger.ledger import Ledger, at_key
from backtrail.ledger.numbers import numbers


def impact(target: str, folder: str | Path = ".") -> dict[str, Any]:
    """Stages, files and numbers that rest on a file or folder, a source file, or a parameter (`params.yaml:teacher.steps`).

    Raises UserError if nothing in the ledger has that name.
    """
    ledger = open_confined(folder)
    file, _, key = target.partition(":")
    wrong = touched(ledger, Path(file).as_posix(), key)
    if not wrong:
        raise UserError(
            f"no stage of this suite read or made {target}: dvc.lock has no file, folder, source file or parameter of that name"
        )
    touching = (stage for stage in ledger.in_order() if not stage.keeps_books)
    stages = [stage for stage in touching if any(ledger.closure(out) & wrong for out in stage.products)]
    files = [out for stage in stages for out in stage.products if out not in wrong]
    changed = [number for number in numbers(ledger) if number.closure(ledger) & wrong]
    return {
        "target": target,
        "stages": [stage.name for stage in stages],
        "files": files,
        "numbers": [{"name": number.name, "text": number.text, "file": number.file} for number in changed],
    }


def touched(ledger: Ledger, file: str, key: str) -> set[str]:
    """What stands for a target in the closures: paths, or the stages that read a parameter or a source file in a folder of code."""
    stages = ledger.stages.values()
    if file == PARAMS_FILE:
        reading = [s for s in stages if not key or _has((ledger.records[s.name] or {}).get("parameters") or s.params, key)]
        return {f"stage:{stage.name}" for stage in reading if stage.params}
    if ledger.is_code(file):
        name = file.removeprefix(ledger.code).removeprefix("/")
        records = ((stage, ledger.records[stage.name] or {}) for stage in stages)
        return {f"stage:{stage.name}" for stage, record in records if any(_at_or_below(of, name) for of in record.get("code", {}))}
    known = {dep for stage in stages for dep in stage.deps} & {file}
    return {*ledger.below(file), *known}


def _has(parameters: dict[str, Any], key: str) -> bool:
    """Whether parameters by dotted key hold one, or something below it, or are within one that holds it."""
    within = (key.removeprefix(f"{known}.") for known in parameters if key.startswith(f"{known}."))
    if any(known == key or known.startswith(f"{key}.") for known in parameters):
        return True
    return any(_is_in(parameters[key.removesuffix(f".{rest}")], rest) for rest in within)


def _is_in(value: Any, key: str) -> bool:
    head, _, last = key.rpartition(".")
    above = at_key(value, head) if head else value
    return isinstance(above, dict) and last in above


def _at_or_below(path: str, of: str) -> bool:
    return not of or path == of or path.startswith(f"{of}/")
