"""The tree of modules that a foreign checkpoint holds as records, walked to its weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from backtrail.errors import UserError
from backtrail.teachers.budget import Budget
from backtrail.teachers.reader import Refused
from backtrail.teachers.unpickle import Record

# The largest published network needs under 10,000. A small file can hold a module once under thousands of names, and those thousands again.
MAX_WORK = 100_000


def children(record: Any) -> dict[str, Any]:
    """The named children of a module's record; a container keeps them in the same place as any module."""
    modules = record.state.get("_modules") if type(record) is Record else None
    return modules if type(modules) is dict else {}


def named_tensors(root: Record, path: str | Path) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers by dotted name, in the order of the file.

    Raises UserError when modules, weights and the letters of their names are more than any network has.
    """
    budget = Budget(0, MAX_WORK)
    pending = [("", root)]
    try:
        while pending:
            prefix, record = pending.pop()
            for group in ("_parameters", "_buffers"):
                tensors = record.state.get(group)
                for name, value in tensors.items() if type(tensors) is dict else ():
                    budget.spend(_work(prefix, name))
                    if isinstance(value, Tensor):
                        yield f"{prefix}{name}", value
            below = []
            for name, child in children(record).items():
                budget.spend(_work(prefix, name))
                if type(child) is Record:
                    below.append((f"{prefix}{name}.", child))
            pending.extend(reversed(below))
    except Refused:
        raise UserError(f"{path} holds more modules and weights than any EDM network has: use the published file") from None


def _work(prefix: str, name: Any) -> int:
    """Units for a dotted name: one, and one more for each 64 letters."""
    return 1 + (len(prefix) + (len(name) if type(name) is str else 0)) // 64
