"""A ledger that somebody else may have written: it names no file outside of its repository, and is made of plain files.

What a lock or a record names is read byte by byte: `/`, a device or a pipe there would keep the reader busy for ever, or take all memory.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import yaml

from backtrail.artifacts import YAML_LOADER
from backtrail.errors import UserError
from backtrail.layout import GATHERED, LOCK_FILE, PIPELINE_FILE, RECORDS
from backtrail.ledger.ledger import Ledger, open_ledger
from backtrail.ledger.repository import root_of

PACKAGE = "src/backtrail"
MAX_DEPTH = 64  # of dvc.lock and dvc.yaml; parameters, the deepest of what stands there, have 24 levels at most


def open_confined(folder: str | Path = ".") -> Ledger:
    """The ledger of the suite in `folder`, as `open_ledger` reads it.

    Raises UserError also if a part of it is no plain file or has no end of levels, or if it names a path that leads out of the suite's
    repository, or checkout where there is no git.
    """
    folder = Path(folder)
    for place in (folder / LOCK_FILE, folder / GATHERED, *sorted((folder / RECORDS).glob("*.json"))):
        if place.exists() and not stat.S_ISREG(place.stat().st_mode):
            raise UserError(f"{place} is a folder, a pipe or a device; expected a plain file: `git checkout -- {place}`")
    for place in (folder / LOCK_FILE, folder / PIPELINE_FILE):
        if place.is_file() and not is_shallow(place.read_bytes()):
            raise UserError(f"{place} has aliases, or more than {MAX_DEPTH} levels, which no pipeline needs: `git checkout -- {place}`")
    ledger = open_ledger(folder)
    for name, stage in ledger.stages.items():
        if not isinstance(stage.cmd, str) or not all(isinstance(path, str) for path in (name, *stage.deps, *stage.outs)):
            raise UserError(f"{folder / LOCK_FILE}: a command line or a path of {name!r} is no text: `git checkout -- {LOCK_FILE}`")
    here = folder.resolve()
    top = root_of(folder) or _checkout(here) or here
    for where, path in _named(ledger):
        place = Path(os.path.normpath(here / path))
        if os.path.isabs(path) or not place.is_relative_to(top) or here.is_relative_to(place):
            raise UserError(f"{where} names {path!r}, which is not inside of this repository: nothing of it was read")
    return ledger


def _checkout(here: Path) -> Path | None:
    """Where sources lie that were unpacked without git: the nearest folder with a pipeline and this package."""
    return next((above for above in (here, *here.parents) if (above / PIPELINE_FILE).is_file() and (above / PACKAGE).is_dir()), None)


def is_shallow(text: bytes) -> bool:
    """Whether YAML has no aliases and no more levels than `MAX_DEPTH`: reading it whole would end the process otherwise.

    By events, which take no stack; what is no YAML at all is for whoever reads it to name.
    """
    depth = 0
    try:
        for event in yaml.parse(text, YAML_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
                return False
    except (yaml.YAMLError, ValueError):
        pass
    return True


def _named(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """(who names it, path) of everything that a check would open."""
    yield LOCK_FILE, ledger.code
    for name, stage in ledger.stages.items():
        yield from ((f"{LOCK_FILE}, stage {name!r},", path) for path in (*stage.deps, *stage.outs, stage.record))
        record = ledger.records[name] or {}
        for kind, above in (("inputs", ""), ("outputs", ""), ("code", f"{ledger.code}/")):
            if isinstance(paths := record.get(kind), dict):
                yield from ((f"the record of {name!r}", above + path) for path in paths)
    yield from ((GATHERED, path) for path in ledger.gathered)
