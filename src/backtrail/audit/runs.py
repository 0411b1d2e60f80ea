"""One run of a suite, wherever it lies: in a folder, or in a git revision with what DVC's cache still has of it."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backtrail.errors import UserError
from backtrail.layout import GATHERED, LOCK_FILE
from backtrail.ledger.confined import is_shallow
from backtrail.ledger.gathered import gathered
from backtrail.ledger.history import commit_at
from backtrail.ledger.ledger import Stage, parse_lock
from backtrail.ledger.repository import OBJECT_NAME, cached, file_at


@dataclass(frozen=True)
class Run:
    """A run by name, its stages, and a way to read one of its text files (None where it is not there).

    commit, day: of a git revision, its object name and the day that it was made; empty for a folder.
    """

    name: str
    stages: dict[str, Stage]
    read: Callable[[str], str | None]
    commit: str = ""
    day: str = ""

    @functools.cached_property
    def _gathered(self) -> dict[str, bytes]:
        return gathered(self.read(GATHERED) or "")

    def record(self, stage: Stage) -> dict[str, Any]:
        text = self.read(stage.record) or self._gathered.get(stage.record)
        return object_of(text or "{}") or {}


def open_run(name: str, folder: Path) -> Run:
    """A suite's folder, or a revision of the suite in `folder`. Raises UserError if it is neither."""
    place = Path(name)
    if name != "HEAD" and not OBJECT_NAME.fullmatch(name) and (place / LOCK_FILE).is_file():  # a folder HEAD is `./HEAD`
        text = (place / LOCK_FILE).read_text(encoding="utf-8")
        return Run(name, parse_lock(text, str(place / LOCK_FILE)), lambda path: text_of(place / path))
    lock = file_at(folder, name, LOCK_FILE)
    if lock is None:
        raise UserError(f"{name} is neither a folder nor a git revision with a {LOCK_FILE} in it (`git log -- {LOCK_FILE}`)")
    if not is_shallow(lock):
        raise UserError(f"{name}:{LOCK_FILE} has aliases, or more levels than a lock of DVC has")
    stages = parse_lock(lock.decode(), f"{name}:{LOCK_FILE}")
    digests = {path: entry.md5 for stage in stages.values() for path, entry in stage.outs.items()}
    # Records and metrics lie in the commit, or in DVC's cache under the digest that the commit's lock names.
    read = functools.cache(lambda path: _decoded(file_at(folder, name, path) or cached(folder, digests.get(path, ""))))
    commit = commit_at(folder, name)
    day = "" if commit is None else datetime.fromtimestamp(commit.time_s, UTC).date().isoformat()
    return Run(name, stages, read, "" if commit is None else commit.name, day)


def object_of(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object that a text is; None where it is torn, or of another form."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def object_at(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none that can be read."""
    try:
        return object_of(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError):
        return {}


def text_of(path: Path) -> str | None:
    """A file's text; None where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _decoded(content: bytes | None) -> str | None:
    return None if content is None else content.decode()
