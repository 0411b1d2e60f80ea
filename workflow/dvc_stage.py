"""`python dvc_stage.py STAGE` is `dvc --wait-for-lock repro --single-item STAGE`, but for how dvc.lock is written: one entry of it.

DVC reads the whole file for update and writes it whole for each stage, in pure Python and while no other job may read or write it: 5 of
7.1 CPU seconds at 13,000 lines, and more with each stage that has run. Here the stage's own entry is replaced in the text, which gives
the same bytes; and the file is replaced at once, so that a process that is killed leaves a whole one. In DVC's path locks the process goes
by its machine too: several share one file system.
"""

import os
import re
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvc.dvcfile import Lockfile
    from dvc.stage import PipelineStage

DVC_VERSION = "3.67.1"  # the version whose Python interface is used here and in `dvc_plan`
LOCK_HEAD = "schema: '2.0'\nstages:\n"
INSIDE = "   "  # how a line within an entry begins, at the least
OTHER_SECTION = re.compile(r"^\S", re.MULTILINE)
ANCHOR = re.compile(r" &id\d")  # DVC numbers them through the whole file


def sender() -> str:
    """Return how DVC's path locks name what processes of this machine run: host, its boot, and whose process numbers are meant.

    Machines of one name do not share a boot, and containers of one machine do not share numbers. Both are told by Linux alone.
    """
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    told = [boot.read_text(encoding="ascii")[:8]] if boot.is_file() else []
    told += re.findall(r"\d+", os.readlink(space)) if space.is_symlink() else []
    return f"{socket.gethostname()} ({' '.join(told)}): "


def with_entry(text: str, entry: str) -> str:
    """Return a lock with a stage's entry in the place of its old one, or at its end.

    An entry is a first line, `  NAME:`, and lines that are blank or further to the right. ValueError: lock or entry has another form.
    """
    first, rest = entry.split("\n", 1)
    is_lock = text.startswith(LOCK_HEAD) and text.endswith("\n") and not OTHER_SECTION.search(text, len(LOCK_HEAD))
    if not is_lock or not first.endswith(":") or not rest.startswith(INSIDE) or ANCHOR.search(entry):
        raise ValueError(f"neither {LOCK_HEAD!r} and entries, nor an entry: {text[:40]!r}, {entry[:40]!r}")
    start = text.find(f"\n{first}\n") + 1
    if not start:
        return text + entry
    end = start + len(first) + 1
    while text.startswith((INSIDE, "\n"), end):
        end = text.index("\n", end) + 1
    return text[:start] + entry + text[end:]


def replace(path: Path, text: str) -> None:
    """Write a file at once: who is killed, or finds the disk full, leaves the old one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_entries(whole_file: Callable[..., None]) -> Callable[..., None]:
    """Return what takes the place of DVC's method `whole_file`, which goes on to write a lock of another form than DVC's own."""
    from dvc.stage.serialize import to_lockfile
    from dvc.utils.serialize import dumps_yaml

    def dump_stages(self: "Lockfile", stages: "Iterable[PipelineStage]", **options: Any) -> None:
        stages = list(stages)
        path = Path(self.path).resolve()
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        text = old
        try:
            for stage in stages:
                text = with_entry(text, dumps_yaml({"stages": to_lockfile(stage, **options)}).removeprefix("stages:\n"))
        except ValueError:
            return whole_file(self, stages, **options)
        if text != old:
            replace(path, text)
            self.repo.scm_context.track_file(self.relpath)

    return dump_stages


def main(arguments: list[str]) -> int:
    """Return DVC's exit code."""
    from dvc import __version__
    from dvc.cli import main as dvc
    from dvc.dvcfile import Lockfile

    if __version__ == DVC_VERSION:  # another one writes its lock as it does
        Lockfile.dump_stages = write_entries(Lockfile.dump_stages)  # type: ignore[method-assign]
    sys.argv = [sender() + __file__, *arguments]  # what DVC calls the process by
    return int(dvc(["--wait-for-lock", "repro", "--single-item", *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
