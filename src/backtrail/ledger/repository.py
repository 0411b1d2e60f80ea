"""What git keeps of a suite: committed files and the code of a commit."""

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path


def git(folder: Path, *arguments: str) -> bytes | None:
    """What git answers in `folder`; None where it fails or is not there."""
    try:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def file_at(folder: Path, commit: str, path: str) -> bytes | None:
    """A file's bytes in a commit, its path seen from `folder`; None if it is not in it."""
    return git(folder, "show", f"{commit}:./{path}")


def code_at(folder: Path, commit: str, code: str) -> dict[str, str] | None:
    """sha256 of each file below `code` in a commit, by path below it; None if the commit or the code is not here."""
    top = git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        return None
    root = Path(top.decode().strip())  # below it, where a suite may lie, `git archive` gives that folder alone
    archive = git(root, "archive", "--format=tar", f"{commit}:{os.path.relpath((folder / code).resolve(), root.resolve())}")
    if archive is None:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: hashlib.sha256(of.read()).hexdigest() for m in tar.getmembers() if (of := tar.extractfile(m)) is not None}


def cached(folder: Path, md5: str) -> bytes | None:
    """What DVC's cache keeps under a digest, for the suite in `folder`; None if it is not there or is not what its name says."""
    for place in (folder.resolve(), *folder.resolve().parents):
        path = place / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        if path.is_file():
            content = path.read_bytes()
            return content if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5.removesuffix(".dir") else None
    return None
