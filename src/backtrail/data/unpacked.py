"""A packed tar as a stream that cannot become endless."""

import bz2
import gzip
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from backtrail.errors import UserError

SLACK_BYTES = 1 << 24  # that a small file may unpack to whatever its ratio, 16 MiB


class Capped:
    """A stream that ends in a UserError after `left` bytes.

    `tarfile` itself keeps what it finds beside members (long names, extended headers, maps of sparse files) however long it is.
    """

    def __init__(self, stream: BinaryIO, left: int, path: Path, ratio: int):
        self.stream, self.left, self.path, self.ratio = stream, left, path, ratio

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise UserError(f"{self.path} unpacks to more than {self.ratio} times its size, which images never do: refused")
        return data


@contextmanager
def unpacked(path: Path, ratio: int) -> Iterator[Capped]:
    """The bytes of a tar, as they are or unpacked to at most `ratio` times the file's size (and SLACK_BYTES)."""
    with open(path, "rb") as file:
        head = file.read(6)
        size_bytes = file.seek(0, 2)
        file.seek(0)
        for magic, unpack in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open)):
            if head.startswith(magic):
                with unpack(file) as stream:
                    yield Capped(stream, ratio * size_bytes + SLACK_BYTES, path, ratio)
                return
        yield Capped(file, size_bytes, path, 1)
