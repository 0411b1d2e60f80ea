"""A folder of images as the members of an archive are: the same names, the same order, the same limits."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from backtrail.data.archives import HEAD_BYTES, MEMBER_BYTES, MEMBERS, Members, check_name, check_name_length
from backtrail.data.layout import aside
from backtrail.errors import UserError


@dataclass(frozen=True)
class Folder(Members):
    """The members below a folder, whose beginnings are read without the rest."""

    def head(self, k: int) -> bytes:
        with open(_place(self, k), "rb") as file:
            return file.read(HEAD_BYTES)

    def stream(self, k: int) -> BinaryIO:
        place = _place(self, k)
        if (size := place.stat().st_size) > MEMBER_BYTES:
            raise UserError(f"{place} holds {size} bytes, allowed are {MEMBER_BYTES}")
        return open(place, "rb")


def open_folder(path: str | Path) -> Folder:
    """The regular files below `path`.

    Raises UserError for links to folders (following one may not end, leaving it out would be silent), for what is neither a file nor a
    folder, and for names that no archive can keep.
    """
    path = Path(path)
    names: list[bytes] = []
    for name in _files(path):
        check_name_length(path, name)
        check_name(path, name)
        names.append(name)
        if len(names) > MEMBERS:
            raise UserError(f"{path} holds more than {MEMBERS} files")
    folder = Folder(path, np.array(sorted(names), dtype=np.bytes_), lambda k: _read(folder, k))
    return folder


def _files(folder: Path) -> Iterator[bytes]:
    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): permit access")

    for place, folders, files in os.walk(folder, onerror=fail):
        for name in [*folders, *files]:
            path = Path(place) / name
            below = os.fsencode(path.relative_to(folder).as_posix())
            if aside(below) is not None:
                if path.is_file():
                    yield below
            elif path.is_dir():
                if path.is_symlink():
                    raise UserError(f"{path} is a link to a folder: put the folder itself there")
            elif path.is_file():
                yield below
            else:
                raise UserError(f"{path} is a link to nothing, or no regular file: take it away")


def _place(folder: Folder, k: int) -> Path:
    return folder.path / os.fsdecode(bytes(folder.names[k]))


def _read(folder: Folder, k: int) -> bytes:
    with folder.stream(k) as file:
        return file.read()
