"""A ledger that somebody else may have written: it names no file outside of its repository, and is made of plain files.

What a lock or a record names is read byte by byte: `/`, a device or a pipe there would keep the reader busy for ever, or take all memory.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from backtrail.errors import UserError
from backtrail.layout import GATHERED, LOCK_FILE, RECORDS
from backtrail.ledger.ledger import Ledger, open_ledger
from backtrail.ledger.repository import root_of


def open_confined(folder: str | Path = ".") -> Ledger:
    """The ledger of the suite in `folder`, as `open_ledger` reads it.

    Raises UserError also if a part of it is no plain file, or if it names a path that leads out of the suite's repository.
    """
    folder = Path(folder)
    for place in (folder / LOCK_FILE, folder / GATHERED, *sorted((folder / RECORDS).glob("*.json"))):
        if place.exists() and not stat.S_ISREG(place.stat().st_mode):
            raise UserError(f"{place} is a folder, a pipe or a device; expected a plain file: `git checkout -- {place}`")
    ledger = open_ledger(folder)
    here = folder.resolve()
    top = root_of(folder) or here
    for where, path in _named(ledger):
        place = Path(os.path.normpath(here / path))
        if os.path.isabs(path) or not place.is_relative_to(top) or here.is_relative_to(place):
            raise UserError(f"{where} names {path!r}, which is not inside of this repository: nothing of it was read")
    return ledger


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
