"""Reading and writing what stages make: whole or not at all, the same bytes for the same content, and nothing executed.

Values are JSON; tables and tensors have modules of their own (`tables.py`, `tensors.py`). Each writer goes through a temporary name
in the same folder and a rename, so a stage that is killed leaves no file that looks finished.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from backtrail.errors import UserError

TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # as `atomic_write` names it; .dvcignore and .gitignore leave such files out too
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same values, ten times as fast


def atomic_write(path: str | Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, flush it to disk, and rename it to `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def drop_temporaries(paths: Iterable[str | Path]) -> None:
    """Remove what a kill in the middle of `atomic_write` left beside these paths, which nobody else writes meanwhile."""
    for path in map(Path, paths):
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            if TEMPORARY.fullmatch(left.name):
                left.unlink(missing_ok=True)


def save_json(path: str | Path, value: Any) -> None:
    """Write canonical JSON; see `json_text`."""
    text = json_text(value)
    atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"))


def json_text(value: Any) -> str:
    """Canonical JSON: sorted keys, two spaces, a final newline. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def load_json(path: str | Path) -> Any:
    """Read JSON. Raises UserError if the file is absent or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage that makes it (`dvc repro`), or `dvc pull`") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of 5,000 digits, 200,000 brackets
        raise UserError(f"{path} is not JSON ({error}): delete it and run the stage again") from None


def load_yaml(text: str) -> Any:
    """YAML that the project wrote itself, by the C parser where there is one. The user's params.yaml has a stricter reader."""
    return yaml.load(text, YAML_LOADER)


def file_digest(path: str | Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
