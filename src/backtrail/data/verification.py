"""Taking a file into the house: decompressed, measured, its digest compared, and only then under its name."""

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backtrail.data.registry import File

CHUNK_BYTES = 1 << 20


class Refused(Exception):
    """Why one way of getting a file did not give the right bytes. Another way may: `fetch` collects these."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A file that stands under its name, and what its bytes were held against.

    `verified` is `pinned` (a sha256 from the registry or the parameters), `published md5`, or `first use` (nothing was known).
    """

    name: str
    sha256: str
    size_bytes: int
    verified: str
    origin: str


def scratch_of(folder: Path) -> Path:
    """Where things lie that are on their way into `folder`: beside it, so that a killed run leaves nothing inside."""
    scratch = folder.with_name(f".{folder.name}.partial")
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def already_kept(file: File, pin: str | None, folder: Path) -> Kept | None:
    """The file if it stands in `folder` with the right digest; a file of which no digest is known is taken as it is."""
    path = folder / file.name
    expected = pin or file.sha256
    if not path.is_file() or (file.size_bytes is not None and path.stat().st_size != file.size_bytes):
        return None
    found = digest_of(path)
    if expected is not None and found != expected:
        return None
    return Kept(
        name=file.name,
        sha256=found,
        size_bytes=path.stat().st_size,
        verified="pinned" if expected else "first use",
        origin="already here",
    )


def keep(served: Path, file: File, pin: str | None, folder: Path, origin: str) -> Kept:
    """Copy `served`, decompressed if it has to be, to `folder` and rename it to its name when it is the right one.

    Raises Refused, with digest or size expected and found, and leaves nothing behind.
    """
    expected = pin or file.sha256
    if expected is None and file.served_md5 is not None and (found := digest_of(served, "md5")) != file.served_md5:
        raise Refused(f"{served.name} has md5 {found}, expected {file.served_md5}")
    hasher, size_bytes = hashlib.sha256(), 0
    temporary = scratch_of(folder) / f"{file.name.replace('/', '-')}.tmp"
    try:
        with open(temporary, "wb") as target:
            for piece in _content(served, file):
                size_bytes += len(piece)
                if file.size_bytes is not None and size_bytes > file.size_bytes:
                    raise Refused(f"{served.name} holds more than the expected {file.size_bytes} bytes")
                hasher.update(piece)
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
        if file.size_bytes is not None and size_bytes != file.size_bytes:
            raise Refused(f"{served.name} holds {size_bytes} bytes, expected {file.size_bytes}")
        if expected is not None and hasher.hexdigest() != expected:
            raise Refused(f"{file.name} has sha256 {hasher.hexdigest()}, expected {expected}")
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, folder / file.name)
    finally:
        temporary.unlink(missing_ok=True)
    verified = "pinned" if expected else "published md5" if file.served_md5 else "first use"
    return Kept(name=file.name, sha256=hasher.hexdigest(), size_bytes=size_bytes, verified=verified, origin=origin)


def _content(served: Path, file: File) -> Iterator[bytes]:
    """The bytes that are kept: those of `served`, or what its gzip stream holds (a file supplied by hand may be either)."""
    with open(served, "rb") as plain:
        if file.compression is None or plain.read(2) != b"\x1f\x8b":
            plain.seek(0)
            yield from _pieces(plain)
            return
        plain.seek(0)
        try:
            with gzip.GzipFile(fileobj=plain) as stream:
                yield from _pieces(stream)  # type: ignore[arg-type]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise Refused(f"{served.name} is not a whole gzip file ({error})") from None


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    while piece := stream.read(CHUNK_BYTES):
        yield piece
