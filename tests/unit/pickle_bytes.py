"""Pieces of pickles, written byte by byte, for the tests of hostile ones."""

import pickle
import struct
from typing import Any

PROTOCOL = b"\x80\x04"
BUILD_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
LOAD_STORAGE = b"ctorch.storage\n_load_from_bytes\n"
ORDERED_DICT = b"ccollections\nOrderedDict\n"
PERSISTENT = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
TYPES = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def blob(data: bytes, claimed: int | None = None) -> bytes:
    return b"B" + struct.pack("<I", len(data) if claimed is None else claimed) + data


def storage(
    n: int = 4,
    kind: bytes = b"FloatStorage",
    info: Any = TYPES,
    header: bytes | None = None,
    keys: Any = None,
    values: bytes = bytes(16),
) -> bytes:
    """A storage in torch's legacy form, with room for a lie at every place."""
    number = b"K" + bytes([n]) if n < 256 else b"\x8a\x08" + struct.pack("<q", n)
    header = header or b"\x80\x02(" + text("storage") + b"ctorch\n" + kind + b"\n" + text("0") + text("cpu") + number + b"NtQ."
    heads = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, info)]
    return b"".join(heads) + header + pickle.dumps(["0"] if keys is None else keys, 2) + struct.pack("<q", n) + values


def record(class_name: str, state: bytes) -> bytes:
    """A persistent object, which becomes a `Record`."""
    head = PERSISTENT + b"}(" + text("type") + text("class") + text("class_name") + text(class_name) + text("state")
    return head + state + b"u\x85R"


def stored(data: bytes) -> bytes:
    return LOAD_STORAGE + blob(data) + b"\x85R"


def tensor(shape: bytes, stride: bytes, offset: bytes = b"K\x00", data: bytes | None = None) -> bytes:
    """A tensor over a storage of four floats."""
    return BUILD_TENSOR + b"(" + stored(data or storage()) + offset + shape + stride + b"\x89" + ORDERED_DICT + b")RtR"
