"""Reads a foreign file forwards and refuses every claim that is larger than what is left of it."""

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_TEXT_BYTES = 1 << 27  # one string; EDM embeds 40 kB of source, protocol 2 writes the largest weight (42 MB) as a text of 64 MB
BLOB_BYTES = 32  # longer byte strings stay in the file; a storage's header alone takes about 250, a number at most 8


class Refused(Exception):
    """The file holds something that a checkpoint does not need; the message is a clause that begins with "it"."""


@dataclass(frozen=True)
class Blob:
    """A byte string of a pickle, left in its file: [start, start + size)."""

    file: BinaryIO
    start: int
    size: int


class Reader:
    """A window [start, end) of a file, read forwards; a claim beyond the window is refused before anything is allocated."""

    def __init__(self, blob: Blob):
        self.file, self.position, self.end = blob.file, blob.start, blob.start + blob.size
        self.file.seek(self.position)

    def claim(self, size: int) -> None:
        """Refuse unless `size` more bytes are there."""
        if size < 0 or size > self.end - self.position:
            raise Refused(f"it ends where {size} more bytes were promised ({self.end - self.position} are left at byte {self.position})")

    def read(self, size: int) -> bytes:
        self.claim(size)
        self.position += size
        data = self.file.read(size)
        if len(data) != size:
            raise Refused("it became shorter while it was read")
        return data

    def text(self, size: int) -> str:
        if size > MAX_TEXT_BYTES:
            raise Refused(f"it claims a text of {size} bytes (at most {MAX_TEXT_BYTES})")
        return decode(self.read(size), "utf-8")

    def line(self) -> str:
        """A name ended by a newline."""
        characters = bytearray()
        while (byte := self.read(1)) != b"\n":
            characters += byte
            if len(characters) > 256:
                raise Refused("it holds a name of more than 256 characters")
        return decode(bytes(characters), "ascii")

    def data(self, size: int) -> bytes | Blob:
        """A byte string: itself if it is short, else where it lies."""
        self.claim(size)
        if size <= BLOB_BYTES:
            return self.read(size)
        blob = Blob(self.file, self.position, size)
        self.position += size
        self.file.seek(self.position)
        return blob

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.read(struct.calcsize(layout)))[0]


def decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        raise Refused(f"it holds a text that is not {encoding}") from None
