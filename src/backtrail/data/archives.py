"""Reading archives that nobody has to trust: nothing is unpacked to the disk, every size is checked before and while it is read.

The directory of a zip is read here and not with `zipfile`, which keeps about 600 bytes of objects per member (0.8 GB for ImageNet);
three arrays hold the same in about 50.
"""

import io
import lzma
import stat
import struct
import tarfile
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from backtrail.data.unpacked import unpacked
from backtrail.errors import UserError

MEMBERS = 20_000_000  # members in an archive
MEMBER_BYTES = 1 << 26  # one image, 64 MiB
LABELS_BYTES = 1 << 30  # the label file, 1 GiB
LABEL_BYTES = 2_000  # one image's part of it: a name of 255 bytes, each of them written as six, and a number
RATIO = 20  # declared content over the size of the archive; images hardly compress, so more is a bomb
LIE_BYTES = 1 << 39  # a size that nothing here has; twenty million of them can still be added up
TAR_BYTES = 1 << 31  # content of a compressed tar, which is held in memory, 2 GiB
NAME_BYTES = 255
HEAD_BYTES = 12
GAP_BYTES = 64  # between two members: a data descriptor has 24 bytes; the smallest image with its header has more than this
LABEL_FILE = "dataset.json"

_END, _END64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_CENTRAL, _LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True)
class Members:
    """The regular files of an archive or a folder: `names` (bytes, sorted, distinct, safe relative paths) and a way to read the k-th."""

    path: Path
    names: np.ndarray
    read: Callable[[int], bytes]

    def head(self, k: int) -> bytes:
        """The first bytes of the k-th, enough to tell an image by."""
        return self.read(k)[:HEAD_BYTES]

    def stream(self, k: int) -> BinaryIO:
        """The content of the k-th as a file; raises what `read` does."""
        return io.BytesIO(self.read(k))

    def index(self, name: str) -> int | None:
        """Where `name` stands in `names`, or None."""
        place = int(np.searchsorted(self.names, name.encode()))
        return place if place < len(self.names) and self.names[place] == name.encode() else None


def open_zip(path: str | Path) -> Members:
    """The members of a zip with stored or deflated content.

    Raises UserError for a file that is cut or no zip, for unsafe or double names, links, encryption, members that overlap, and sizes
    beyond the limits above. Reading a member checks its declared size and its CRC-32.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            names, table = _directory(file, path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage `fetch`") from None
    order = np.argsort(names, kind="stable")
    names, table = names[order], table[order]
    _check_names(path, names)
    _check_sizes(path, names, table)
    return Members(path, names, lambda k: _read_member(path, names[k].decode(), table[k]))


def _directory(file: BinaryIO, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Names (bytes) and rows (offset of the local header, compressed size, size, CRC-32, method, length of the name), of every member."""
    count, start, size_bytes = _end_record(file, path)
    if count > MEMBERS:
        raise UserError(f"{path} declares {count} members, allowed are {MEMBERS}")
    names: list[bytes] = []
    rows = array("Q")
    file.seek(start)
    for _ in range(count):
        head = file.read(_CENTRAL.size)
        if len(head) < _CENTRAL.size or head[:4] != b"PK\x01\x02" or file.tell() > start + size_bytes:
            raise UserError(f"{path} is not a whole zip archive (its directory is damaged): get it again")
        _, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, _, _, attributes, offset = _CENTRAL.unpack(head)
        name, extra = file.read(n_name), file.read(n_extra)
        file.seek(n_comment, 1)
        size, packed, offset = _wide(extra, size, packed, offset)
        check_name_length(path, name)
        kind = stat.S_IFMT(attributes >> 16)
        if flags & 1 or method not in (0, 8) or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            why = "encrypted" if flags & 1 else f"packed by method {method}" if method not in (0, 8) else "a link or device"
            raise UserError(f"{path}: {_shown(name)} is {why}: refused")
        if offset + packed > start or size > LIE_BYTES:  # before they become numbers of 64 bits, whose sums wrap
            raise UserError(f"{path}: {_shown(name)} declares {size} bytes at {offset} to {offset + packed}, beyond its end: refused")
        names.append(name)
        rows.extend((offset, packed, size, crc, method, n_name))
    if file.tell() != start + size_bytes:
        raise UserError(f"{path} holds more members than the {count} that its end declares: refused, get it again")
    table = np.frombuffer(rows, np.uint64).reshape(-1, 6) if rows else np.zeros((0, 6), np.uint64)
    _check_gaps(file, path, table.astype(np.int64), start)
    regular = np.flatnonzero([not name.endswith(b"/") for name in names])
    return np.array([names[k] for k in regular], dtype=np.bytes_), table[regular]


def _check_gaps(file: BinaryIO, path: Path, table: np.ndarray, start: int) -> None:
    """Raises UserError where the bytes before the directory could hold members that it does not list (or lists over each other)."""
    by_place = table[np.argsort(table[:, 0])]
    offsets, ends = by_place[:, 0], by_place[:, 0] + by_place[:, 1] + _LOCAL.size + by_place[:, 5]
    if (ends > np.append(offsets[1:], start)).any():
        raise UserError(f"{path}: members overlap or reach beyond its end: refused")
    gaps = np.append(offsets, start) - np.append(0, ends)
    for k in np.flatnonzero(gaps > GAP_BYTES):
        gap = int(gaps[k])
        if k:  # the local header's own extra field belongs to the member
            file.seek(int(offsets[k - 1]))
            head = file.read(_LOCAL.size)
            gap -= _LOCAL.unpack(head)[-1] if len(head) == _LOCAL.size else 0
        if gap > GAP_BYTES:
            raise UserError(f"{path} holds {gap} bytes that belong to no member that its directory lists: refused, pack it again")


def _end_record(file: BinaryIO, path: Path) -> tuple[int, int, int]:
    """Number of members, and offset and size of the directory, from the end of the file (with or without zip64)."""
    whole = UserError(f"{path} is not a whole zip archive (its end is missing): get it again")
    length = file.seek(0, 2)
    file.seek(max(0, length - _END.size - _FULL16))
    tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise whole
    _, _, _, _, count, size_bytes, start, _ = _END.unpack_from(tail, place)
    directory_end = length - len(tail) + place
    if count == _FULL16 or _FULL32 in (size_bytes, start):
        if place < _LOCATOR.size or tail[place - _LOCATOR.size : place - _LOCATOR.size + 4] != b"PK\x06\x07":
            raise whole
        directory_end = min(_LOCATOR.unpack_from(tail, place - _LOCATOR.size)[2], length)
        file.seek(directory_end)
        record = file.read(_END64.size)
        if len(record) < _END64.size or record[:4] != b"PK\x06\x06":
            raise whole
        *_, count, size_bytes, start = _END64.unpack(record)
    if start + size_bytes > length or count * _CENTRAL.size > size_bytes:
        raise whole
    if start + size_bytes != directory_end:
        raise UserError(f"{path} holds bytes between its directory and its end, which declares {count} members: refused, get it again")
    return count, start, size_bytes


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Sizes and offset with the 64-bit values of the zip64 field where the 32-bit ones are full."""
    place = 0
    while place + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, place)
        place += 4
        if tag == 1:
            values = list(struct.unpack_from(f"<{min(length, len(extra) - place) // 8}Q", extra, place))
            fields = [size, packed, offset]
            for k, field in enumerate(fields):
                if field == _FULL32 and values:
                    fields[k] = values.pop(0)
            return fields[0], fields[1], fields[2]
        place += length
    return size, packed, offset


def _check_names(path: Path, names: np.ndarray) -> None:
    for name in names:
        check_name(path, name)
    double = np.flatnonzero(names[1:] == names[:-1])
    if len(double):
        raise UserError(f"{path}: {_shown(names[double[0]])} is there twice: refused")


def check_name_length(path: Path, name: bytes) -> None:
    """Raises UserError if a name is too long for a file's, or ends in zeros, which an array of names cannot keep."""
    if len(name) > NAME_BYTES or b"\0" in name:
        raise UserError(f"{path}: {_shown(name)} is no name that a file can have ({len(name)} bytes): refused")


def check_name(path: Path, name: bytes) -> None:
    """Raises UserError if a member's name is not a plain relative path (it could point outside of any folder)."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: {_shown(name)} is not a name in UTF-8: refused") from None
    if not text or text.startswith("/") or "\\" in text or "\0" in text or ":" in text or ".." in text.split("/"):
        raise UserError(f"{path}: the name {_shown(name)} points outside of the archive: refused")


def labels_limit(n_members: int) -> int:
    """Bytes of a label file for that many members; what is longer names others, and would be objects of many times its size."""
    return min(LABELS_BYTES, (1 << 21) + LABEL_BYTES * n_members)


def _check_sizes(path: Path, names: np.ndarray, table: np.ndarray) -> None:
    if not len(table):
        return
    sizes = table[:, 2]
    limits = np.where(names == LABEL_FILE.encode(), labels_limit(len(names)), MEMBER_BYTES)
    if (over := np.flatnonzero(sizes > limits)).size:
        raise UserError(f"{path}: {_shown(names[over[0]])} declares {sizes[over[0]]} bytes, allowed are {limits[over[0]]}: refused")
    total, length = int(sizes.sum(dtype=np.uint64)), path.stat().st_size
    if total > RATIO * length:
        raise UserError(f"{path} declares {total} bytes of content in {length} bytes, more than {RATIO} times its size: refused")


def _read_member(path: Path, name: str, row: np.ndarray) -> bytes:
    offset, packed, size, crc, method, _ = (int(value) for value in row)
    with open(path, "rb") as file:
        file.seek(offset)
        head = file.read(_LOCAL.size)
        if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
            raise UserError(f"{path}: {name} does not start where the directory says: get the archive again")
        *_, n_name, n_extra = _LOCAL.unpack(head)
        file.seek(n_name + n_extra, 1)
        data = file.read(packed)
    if method:
        unpacker = zlib.decompressobj(-15)
        try:
            data = unpacker.decompress(data, size + 1)  # one more than declared is enough to see that it lies
        except zlib.error:
            data = b""
    if len(data) != size or zlib.crc32(data) != crc:
        raise UserError(f"{path}: {name} is damaged (not the {size} bytes that the directory declares): get the archive again")
    return data


def open_tar(path: str | Path) -> Members:
    """The regular files of a tar, compressed or not, read into memory.

    Raises UserError for a file that is cut or no tar, unsafe or double names, links and devices, and sizes beyond the limits above.
    """
    path = Path(path)
    blobs: dict[bytes, bytes] = {}
    total = 0
    try:
        with unpacked(path, RATIO) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                name = member.name.removeprefix("./").encode("utf-8", "surrogateescape")
                if name not in (b"", b"."):
                    check_name(path, name)
                if member.isdir():
                    continue
                if not member.isreg():
                    raise UserError(f"{path}: {_shown(name)} is a link or device: refused")
                total += member.size
                if member.size > MEMBER_BYTES or total > TAR_BYTES or len(blobs) >= MEMBERS:
                    raise UserError(
                        f"{path}: {_shown(name)} declares {member.size} bytes, {total} so far; allowed {MEMBER_BYTES}, {TAR_BYTES}"
                    )
                if name in blobs:
                    raise UserError(f"{path}: {_shown(name)} is there twice: refused")
                content = tar.extractfile(member)
                blobs[name] = content.read() if content else b""
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage `fetch`") from None
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is not a whole tar archive ({error}): get it again") from None
    names = np.array(sorted(blobs), dtype=np.bytes_)
    return Members(path, names, lambda k: blobs[bytes(names[k])])


def _shown(name: bytes) -> str:
    return repr(name[:80].decode("utf-8", "replace"))
