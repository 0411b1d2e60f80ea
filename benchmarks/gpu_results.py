"""Rows that outlive a cut: each is on disk as soon as it is known, and what is there already is not computed again.

Rows are computed in processes of their own, forked from one that has computed nothing and never wakes a GPU: their memory is their own, and
a GPU that one row has left unusable is started anew for the next.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from backtrail.artifacts import load_json, save_json

Row = dict[str, Any]
Rows = Mapping[str, Callable[[], Row]]


@dataclass(frozen=True)
class Settings:
    """How to measure. device: cuda or cpu. tiny: nets for a rehearsal. params: the suite whose methods are measured. seconds: per row."""

    device: str
    tiny: bool
    params: Path
    seconds: float

    @property
    def on(self) -> torch.device:
        return torch.device(self.device)


@dataclass(frozen=True)
class Group:
    """Rows that share a process: `build` makes the functions of `keys` there. limit_s: the longest that one row may take, seconds."""

    keys: tuple[str, ...]
    build: Callable[[Settings], Rows]
    limit_s: float = 60.0


@dataclass
class Results:
    """The rows of a part in `path`, with `about`: what they are true of (device, versions, code).

    Raises SystemExit if the file is there and is about something else, for one table names one device and one code.
    """

    path: Path
    about: dict[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        found = load_json(self.path)
        if other := [key for key in self.about if found["about"].get(key) != self.about[key]]:
            was, now = ({key: of.get(key) for key in other} for of in (found["about"], self.about))
            raise SystemExit(f"{self.path} is about {was}, and this is {now}: name another folder by --out, or delete that one")
        self.rows = found["rows"]

    def add(self, key: str, row: Row) -> None:
        """Take a row in and write the file anew, whole or not at all."""
        self.rows[key] = row
        save_json(self.path, {"about": self.about, "rows": self.rows})


def measure(results: Results, groups: list[Group], settings: Settings, until: float, say: Callable[[str], None]) -> bool:
    """Compute what `results` lacks until the clock (`time.monotonic`) says `until`; True if nothing is lacking then.

    An error is its row's result: {"failed": its first line}.
    """
    for group in groups:
        while wanted := [key for key in group.keys if key not in results.rows]:
            if time.monotonic() >= until:
                return False
            came = 0
            for key, row in _apart(group, wanted, settings, until):
                results.add(key, row)
                say(f"{key}: {spoken(row)}")
                came += 1
            if not came and time.monotonic() >= until:
                return False
    return True


def _apart(group: Group, wanted: list[str], settings: Settings, until: float) -> Iterator[tuple[str, Row]]:
    """The rows that one process makes, as they come; it is ended at `until`, and where a row takes too long or ends it."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(group, wanted, settings, sender), daemon=True)
    process.start()
    sender.close()
    left = list(wanted)
    try:
        while left:
            patience = min(group.limit_s, until - time.monotonic())
            if not receiver.poll(max(patience, 0)):
                if patience == group.limit_s:
                    yield left[0], {"failed": f"no result after {group.limit_s:g} s"}
                return
            try:
                key, row, usable = receiver.recv()
            except EOFError:
                process.join()
                yield left[0], {"failed": f"its process ended with {process.exitcode}"}
                return
            left.remove(key)
            yield key, row
            if not usable:
                return
    finally:
        process.kill()
        process.join()


def _work(group: Group, wanted: list[str], settings: Settings, sender: Connection) -> None:
    """In the fork: each row in turn, with whether the device can still be used after it."""
    try:
        rows = group.build(settings)
    except Exception as error:  # whatever it is, it is the result of these rows
        rows = {key: _raising(error) for key in wanted}
    for key in wanted:
        row = caught(rows[key])
        sender.send((key, row, usable(settings.on)))


def _raising(error: Exception) -> Callable[[], Row]:
    def again() -> Row:
        raise error

    return again


def caught(call: Callable[[], Row]) -> Row:
    """The row, or the first line of what it raised."""
    try:
        return call()
    except Exception as error:  # the run goes on, whatever a row raises
        return {"failed": f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"[:300]}


def usable(device: torch.device) -> bool:
    """Whether the device still computes; after some errors of CUDA each later call of the process fails too."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except Exception:
        return False
    return True


def spoken(row: Row) -> str:
    """A row on a line."""
    return ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())


def markdown_rows(rows: Mapping[str, Row], columns: Mapping[str, str]) -> str:
    """A table in Markdown with a line per row; columns: heading by the row's key. A row that failed says why in its last cell."""
    lines = [["", *columns.values(), "note"], ["---"] * (len(columns) + 2)]
    for key, row in rows.items():
        cells = [_cell(row.get(column)) for column in columns]
        lines.append([key, *cells, str(row.get("failed", row.get("note", ""))).replace("|", "/")])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)
