"""What a process that was killed leaves in DVC's files, mended: half of `dvc.lock`, half of the path locks, entries of nobody in them."""

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from snakemake.logging import logger

from dvc_stage import LOCK_HEAD, sender

if TYPE_CHECKING:
    from dvc.repo import Repo

LOCK = Path("dvc.lock")
LOCKED_STAGE = re.compile(r"^  \S.*:$", re.MULTILINE)
CONFLICT = re.compile(r"^(<{7}|={7}|>{7})( |$)", re.MULTILINE)
PATH_LOCKS = Path(".dvc/tmp/rwlock")  # which process reads and writes which path


def mend_lock() -> None:
    """Mend `dvc.lock` from the process of a job, under DVC's own lock: another job may just be writing it."""
    from dvc.repo import Repo, lock_repo

    with lock_repo(Repo(_wait_for_lock=True)):
        mend_locked_file()


def mend_if_cut(repo: "Repo") -> None:
    """Mend `dvc.lock` if it stops within a line or DVC cannot read it; to parse it once more than DVC does would take a second of many."""
    from dvc.exceptions import DvcException

    try:
        if ends_within_a_line(LOCK):
            mend_locked_file()
        list(repo.index.stages)
    except DvcException:
        mend_locked_file()
        repo._reset()


def ends_within_a_line(path: Path) -> bool:
    """Return whether a file is there and is empty or stops short of the end of a line: cheap, and true of most that are cut."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read() != b"\n"


def mend_locked_file() -> None:
    """Cut `dvc.lock` back to its last whole stage, and say so, if a process was killed or the disk was full while it was written.

    DVC writes that file in place, and all of its commands refuse half of it; a stage whose entry is half there would run again. One that is
    cut off it restores from its run cache.
    A file that is wrong elsewhere than at its end, or has a merge conflict, is left as it is, for DVC to name. The caller holds DVC's lock.
    """
    if not LOCK.is_file() or (is_lock(LOCK) and not ends_within_a_line(LOCK)):
        return
    text = LOCK.read_text(encoding="utf-8", errors="replace")
    if CONFLICT.search(text):
        return
    starts = [found.start() for found in LOCKED_STAGE.finditer(text)]
    if len(starts) > 1:
        draft = LOCK.with_name(f".{LOCK.name}.{os.getpid()}.tmp")
        draft.write_text(text[: starts[-1]], encoding="utf-8")
        if not is_lock(draft):
            draft.unlink()
            return
        draft.replace(LOCK)
    elif text.startswith(LOCK_HEAD) or LOCK_HEAD.startswith(text):
        LOCK.unlink()
    else:
        return
    logger.warning(f"{LOCK} was half written by a process that was killed, or on a full disk: cut back to its last whole stage")


def is_lock(path: Path) -> bool:
    """Return whether DVC would take a file as its lock."""
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils import strictyaml

    try:
        strictyaml.load(str(path), COMPILED_LOCKFILE_SCHEMA)
    except DvcException:
        return False
    return True


def locked_paths() -> list[str]:
    """Return the paths that running (or killed) stages hold for writing, from DVC's lock file."""
    try:
        return list(json.loads(PATH_LOCKS.read_text(encoding="utf-8")).get("write", {}))
    except FileNotFoundError:
        return []
    except ValueError:
        mend_path_locks()
        return locked_paths()


def mend_path_locks(seconds: float = 2.0) -> None:
    """Remove DVC's file of path locks, and say so, if a process was killed or the disk was full while it was written.

    DVC writes that file in place, and all of its commands fail on half a file. One that is being written is whole a moment later.
    A stage that runs meanwhile misses its entry at its end: it fails, and its next attempt takes its outputs from DVC's run cache.
    """
    if is_damaged(PATH_LOCKS):
        time.sleep(seconds)
        if is_damaged(PATH_LOCKS):
            PATH_LOCKS.unlink(missing_ok=True)
            logger.warning(f"{PATH_LOCKS} was half written by a process that was killed, or on a full disk: removed")


def forget_killed_readers(repo: "Repo") -> None:
    """Drop what killed processes of this machine hold for reading from the path locks. The caller holds DVC's lock.

    DVC drops a dead reader when somebody is about to write its path, and nobody ever writes params.yaml or the source: each job that was
    killed leaves entries there (280 of the stage `code` in a suite), and DVC reads and writes all of them at every lock that it takes,
    twice for each stage in `dvc status`. An entry of another machine stays, since its process number means nothing here, and so does one
    that does not tell its machine (`dvc repro` by hand).
    """
    from dvc.rwlock import _edit_rwlock

    here = sender()
    text = PATH_LOCKS.read_text(encoding="utf-8") if PATH_LOCKS.exists() else ""
    gone = {pid for pid in map(int, re.findall(rf'"pid": (\d+), "cmd": "{re.escape(here)}', text)) if is_gone(pid)}
    if not gone:
        return  # nothing to drop: DVC would write the file in place, which a kill may cut
    with _edit_rwlock(repo.tmp_dir, repo.fs, repo.config["core"].get("hardlink_lock", False)) as locks:
        for path, readers in list(locks["read"].items()):
            locks["read"][path] = [entry for entry in readers if entry["pid"] not in gone or not entry["cmd"].startswith(here)]
            if not locks["read"][path]:
                del locks["read"][path]


def is_gone(pid: int) -> bool:
    """Return whether no process has a number: where it is not known, one has."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def is_damaged(path: Path) -> bool:
    """Return whether a JSON file is there and cannot be read as such."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False
