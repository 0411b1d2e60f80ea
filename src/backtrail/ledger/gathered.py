"""All records of a suite in one small file that git keeps, so that whoever has only cloned it can question them.

A record is given back byte for byte, and `dvc.lock` has the md5 of each: what this file says is believed only where both agree. Parts that
several records have in common (code, packages, machine) stand once.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from backtrail.artifacts import atomic_write, json_text, load_json
from backtrail.errors import UserError
from backtrail.layout import GATHERED, RECORDS, record

SCHEMA = 1
MAX_BYTES = 1 << 26  # of the file, and of all records together, which may share much


def gather(folder: str | Path = ".") -> None:
    """Write `results/ledger.json` from the records that lie in the suite's folder.

    Raises UserError if one of them is no record.
    """
    folder = Path(folder)
    found = {path.stem: load_json(path) for path in sorted((folder / RECORDS).glob("*.json"))}
    if strange := [name for name, content in found.items() if not isinstance(content, dict) or content.get("stage") != name]:
        raise UserError(f"{record(strange[0])} is no record of that stage: restore it with `dvc checkout`, or run the stage again")
    text = _text(found)
    atomic_write(folder / GATHERED, lambda file: file.write_text(text, encoding="utf-8"))


def _text(records: dict[str, dict[str, Any]]) -> str:
    """The file: a line for each part that several records share, and for each record, so that git shows what a run has changed."""
    uses = Counter(_name(part) for content in records.values() for part in content.values() if isinstance(part, dict))
    parts = {_name(part): part for content in records.values() for part in content.values() if isinstance(part, dict)}
    shared = {name: parts[name] for name, n in sorted(uses.items()) if n > 1}
    lines = {}
    for stage, content in records.items():
        named = {key: name for key, part in content.items() if isinstance(part, dict) and (name := _name(part)) in shared}
        lines[stage] = {"own": {key: part for key, part in content.items() if key not in named}, "shared": named}
    blocks = (f'"{key}": {{\n{_lines(of)}\n}}' for key, of in (("records", lines), ("shared", shared)))
    return "{\n" + ",\n".join([*blocks, f'"schema": {SCHEMA}']) + "\n}\n"


def _lines(values: dict[str, Any]) -> str:
    return ",\n".join(f"{json.dumps(key)}: {_compact(of)}" for key, of in sorted(values.items()))


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _name(part: dict[str, Any]) -> str:
    return hashlib.sha256(_compact(part).encode()).hexdigest()[:16]


def gathered(text: str) -> dict[str, bytes]:
    """The bytes of every record by its path, as the stage wrote it. Nothing of a text that is no such file, or a huge one."""
    try:
        content = json.loads(text) if len(text) <= MAX_BYTES else {}
        shared, left, found = content["shared"], MAX_BYTES, {}
        for stage, of in content["records"].items():
            whole = {**of["own"], **{key: shared[name] for key, name in of["shared"].items()}}
            found[record(stage)] = json_text(whole).encode()
            if (left := left - len(found[record(stage)])) < 0:
                return {}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}
    return found


def read_gathered(folder: Path) -> dict[str, bytes]:
    """The same of the suite in `folder`; nothing where it has no such file."""
    try:
        return gathered((folder / GATHERED).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}
