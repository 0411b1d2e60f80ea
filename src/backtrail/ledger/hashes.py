"""Digests of files as they lie on disk: every byte is read, once, for both kinds; no time stamp and no cache of digests is believed."""

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backtrail.ledger.record import folder_digest

IGNORE_FILE = ".dvcignore"
ALWAYS_IGNORED = (".git/", ".dvc/", "__pycache__/")


@dataclass(frozen=True)
class Digest:
    """md5 (as dvc.lock has it), sha256 (as records have it) and size of a file or a folder."""

    md5: str
    sha256: str
    size_bytes: int


class _Both:
    """Both digests and the size of what is read, for one pass of `hashlib.file_digest`."""

    def __init__(self) -> None:
        self.md5, self.sha256, self.size_bytes = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0

    def update(self, block: memoryview) -> None:
        self.md5.update(block)
        self.sha256.update(block)
        self.size_bytes += len(block)


def hash_file(path: Path) -> Digest:
    """Read a file in blocks; memory does not grow with its size."""
    with open(path, "rb", buffering=0) as file:
        found: Any = hashlib.file_digest(file, _Both)  # type: ignore[arg-type]  # its protocol asks for more than is called
    return Digest(found.md5.hexdigest(), found.sha256.hexdigest(), found.size_bytes)


def hash_bytes(content: bytes) -> Digest:
    """The digests of a file's content that is at hand."""
    return Digest(hashlib.md5(content, usedforsecurity=False).hexdigest(), hashlib.sha256(content).hexdigest(), len(content))


def folder_md5(files: dict[str, str]) -> str:
    """DVC's md5 of a folder from its files' paths and md5: that of their list as JSON, sorted by path."""
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


class Hashes:
    """Digests of the files of a suite. Each is read once, however often it is asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._ignored = [*ALWAYS_IGNORED, *_ignore_lines(folder.resolve())]
        self._known: dict[str, Digest] = {}

    def read(self, paths: Iterable[str]) -> None:
        """Read all files at and below these paths, several at a time."""
        files = sorted({file for path in paths for file in self.files(path)} - self._known.keys())
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for name, digest in zip(files, pool.map(lambda name: hash_file(self.folder / name), files), strict=True):
                self._known[name] = digest

    def files(self, path: str) -> list[str]:
        """The files at or below a path, without what DVC is told to leave out of a folder; none if nothing is there."""
        place = self.folder / path
        if place.is_file():
            return [path]
        found = (f.relative_to(place).as_posix() for f in place.rglob("*") if f.is_file()) if place.is_dir() else ()
        return sorted(f"{path}/{name}" for name in found if not self._is_ignored(path, name))

    def of(self, path: str) -> Digest | None:
        """Digest of a file or a folder; None if nothing is there."""
        place = self.folder / path
        if not place.exists():
            return None
        self.read([path])
        if place.is_file():
            return self._known[path]
        return self.of_files(path, self.files(path))

    def of_files(self, folder: str, files: list[str]) -> Digest:
        """Digest of a folder that would hold these files alone."""
        found = {name.removeprefix(f"{folder}/"): self._known[name] for name in files}
        return Digest(
            folder_md5({name: of.md5 for name, of in found.items()}),
            folder_digest({name: of.sha256 for name, of in found.items()}),
            sum(of.size_bytes for of in found.values()),
        )

    @property
    def bytes_read(self) -> int:
        return sum(of.size_bytes for of in self._known.values())

    def _is_ignored(self, path: str, name: str) -> bool:
        """Whether the file `name` below `path` is left out; a rule that begins with a slash is about the top of the project."""
        *folders, file = name.split("/")
        for rule in self._ignored:
            if rule.startswith("/"):
                found = f"{path}/{name}".startswith(rule[1:])
            elif rule.endswith("/"):
                found = any(fnmatch.fnmatch(folder, rule[:-1]) for folder in folders)
            else:
                found = fnmatch.fnmatch(file, rule)
            if found:
                return True
        return False


def _ignore_lines(folder: Path) -> list[str]:
    """The rules of the repository's ignore file, in or above the suite; plain names and patterns of names, as this project writes them."""
    for place in (folder, *folder.parents):
        if (place / IGNORE_FILE).is_file():
            lines = (line.strip() for line in (place / IGNORE_FILE).read_text(encoding="utf-8").splitlines())
            return [line for line in lines if line and not line.startswith("#")]
    return []
