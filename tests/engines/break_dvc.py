"""`python break_dvc.py MOMENT HOW FOLDER ARGUMENTS`: DVC's command line, and something happens to it at one moment of its work.

MOMENT is a function of DVC, `module:name`; of one that is handed a stream, the call for dvc.lock. HOW: `kill` when it is called,
`kill-half` when it has written half of what it writes, or `fill` the disk under FOLDER.
"""

import importlib
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def broken(original: Callable[..., Any], how: str, folder: Path) -> Callable[..., Any]:
    """`original`, to which it happens."""

    def call(*arguments: Any, **options: Any) -> Any:
        stream = arguments[1] if len(arguments) > 1 and hasattr(arguments[1], "write") else None
        if stream is not None and not stream.name.endswith("dvc.lock"):
            return original(*arguments, **options)  # it writes another file
        if how == "kill-half":  # the function is handed what it writes, and the stream that it writes to
            whole = io.StringIO()
            original(arguments[0], whole)
            arguments[1].write(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])
            arguments[1].flush()
        if how.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        fill(folder / "filler")
        return original(*arguments, **options)

    return call


def fill(path: Path) -> None:
    """Write a file until the disk takes no more."""
    with path.open("ab", buffering=0) as file:
        for block in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(bytes(block))
            except OSError:
                continue


if __name__ == "__main__":
    moment, how, folder, *arguments = sys.argv[1:]
    module, _, name = moment.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, last, broken(getattr(owner, last), how, Path(folder)))
    from dvc.cli import main

    sys.exit(main(arguments))
