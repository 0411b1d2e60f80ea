"""What a checkpoint's pickle may name: tensors, numpy numbers, ordered dicts, and modules, which become records of their attributes."""

import io
import math
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backtrail.errors import UserError
from backtrail.teachers.budget import Budget
from backtrail.teachers.reader import BLOB_BYTES, Blob, Reader, Refused
from backtrail.teachers.recognised import READ, TORCH_SAVE, Recognised, of_texts
from backtrail.teachers.unpickle import RECORD_WORK, SET_WORK, DType, Machine, Name, Record, scalar

# The three pickles at the head of a storage in torch's format from before zip files.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
TENSOR_WORK = 10  # a tensor is an object of about 1 kB, a storage one more
NUMPY_LAYOUTS = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "u1": "<B", "b1": "<?"}


def read_pickle(path: str | Path) -> Any:
    """The content of a foreign pickle as plain data: numbers, text, lists, dicts, tensors (CPU) and `Record`s.

    Nothing in the file is executed, and source code in it is not even parsed. Raises UserError if the file is absent or holds anything
    else, is cut short, claims more than it has, or asks for more work than a checkpoint takes (`Budget`).
    """
    machine: Machine | None = None
    head = b""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            if (head := file.read(512)).startswith(b"PK"):
                kind = f"of torch.save, {TORCH_SAVE}" if b"/data.pkl" in head else f"and no pickle: name {READ}"
                raise Recognised(f"it is a zip file {kind}")
            budget = Budget(size)
            machine = Machine(Reader(Blob(file, 0, size)), known_names(budget), budget)
            value = machine.run()
            if type(value) is int and value == LEGACY_MAGIC:
                raise Recognised(f"it is an old file of torch.save, {TORCH_SAVE}")
            return value
    except FileNotFoundError:
        raise UserError(f"{path} is missing: fetch it, or put it there by hand") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected a file with the checkpoint's pickle") from None
    except Refused as refusal:
        known = refusal if isinstance(refusal, Recognised) else of_texts(machine.memo.values() if machine else ())
        if known is not None:
            raise UserError(f"{path} cannot be imported, and nothing in it was executed: {known}") from None
        is_another = head and not head.startswith(pickle.PROTO)  # no pickle of protocol 2 or later
        cure = f"name {READ}" if is_another else "get it again from its publisher and compare its sha256"
        raise UserError(f"{path} cannot be imported, and nothing in it was executed: {refusal}; {cure}") from None


def known_names(budget: Budget) -> dict[tuple[str, str], Name]:
    """The table of known names; what their functions make is charged to `budget`."""

    def tensor(storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, metadata: Any = None) -> Tensor:
        budget.spend(TENSOR_WORK)
        return _tensor(storage, offset, shape, stride, budget)

    def ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
        budget.spend(len(pairs))
        return {scalar(key): value for key, value in pairs}

    def distinct(members: Any = ()) -> set[Any]:
        budget.spend(len(members) + SET_WORK)
        return {scalar(member) for member in members}

    def persistent(meta: Any) -> Record:
        budget.spend(RECORD_WORK)
        return _persistent(meta)

    table: dict[tuple[str, str], Callable[..., Any]] = {
        ("collections", "OrderedDict"): ordered_dict,
        ("builtins", "set"): distinct,
        ("__builtin__", "set"): distinct,
        ("__builtin__", "bytes"): _no_bytes,
        ("_codecs", "encode"): lambda text, encoding: _latin1(text, encoding, budget),
        ("numpy", "dtype"): _dtype,
        ("numpy.core.multiarray", "scalar"): _numpy_scalar,
        ("numpy._core.multiarray", "scalar"): _numpy_scalar,
        ("torch.storage", "_load_from_bytes"): lambda data: _storage(data, budget),
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): persistent,
    }
    names = {key: Name(".".join(key), call=function) for key, function in table.items()}
    for container in ("ModuleDict", "ModuleList", "Sequential"):
        names["torch.nn.modules.container", container] = Name(container, new=_record_of(container))
    names["dnnlib.util", "EasyDict"] = Name("dnnlib.util.EasyDict", new=dict)
    return names


def _record_of(class_name: str) -> Callable[[], Record]:
    return lambda: Record(class_name)


def _no_bytes() -> bytes:
    """An empty byte string, as protocol 2 writes it."""
    return b""


def _latin1(text: Any, encoding: Any, budget: Budget) -> bytes | Blob:
    """A byte string as protocol 2 writes it: a text whose characters are the bytes."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("it holds bytes that are not written as a text in latin1")
    budget.claim("texts", len(text))
    data = text.encode("latin1")
    return data if len(data) <= BLOB_BYTES else Blob(io.BytesIO(data), 0, len(data))


def _dtype(code: Any, *_: Any) -> DType:
    if code not in NUMPY_LAYOUTS:
        raise Refused("it holds a numpy type that no checkpoint needs")
    return DType(code)


def _numpy_scalar(dtype: Any, data: Any) -> float | int | bool:
    if type(dtype) is not DType or type(data) is not bytes:
        raise Refused("it holds a numpy number without type or bytes")
    return struct.unpack(NUMPY_LAYOUTS[dtype.code], data)[0]


def _parameter(data: Any, *_: Any) -> Tensor:
    if type(data) is not Tensor:
        raise Refused(f"it holds a parameter made of a {type(data).__name__}")
    return data


def _persistent(meta: Any) -> Record:
    """EDM's wrapper of a module: a dict with the source of its class (dropped unread), the class's name, and the attributes."""
    if type(meta) is not dict or meta.get("type") != "class":
        raise Refused("it holds a persistent object without a description")
    name, state = meta.get("class_name"), meta.get("state")
    if type(name) is not str or type(state) is not dict:
        raise Refused("it holds a persistent object without a class name or attributes")
    return Record(name, state)


def _storage(data: Any, budget: Budget) -> Tensor:
    """A storage that was saved on its own: five pickles, none of which may name more than a storage's type, then the numbers."""
    if type(data) is bytes:
        raise Refused("it holds a storage of few bytes, without room for its header")
    if type(data) is not Blob:
        raise Refused(f"it holds a storage made of a {type(data).__name__}")
    # The whole of it, each time: a file can have one byte string loaded as often as it likes.
    budget.claim("storages", data.size)
    budget.spend(TENSOR_WORK)
    outer = data.file.tell()
    reader = Reader(data)
    plain = [Machine(reader, {}, budget).run() for _ in range(3)]
    if plain[:2] != [LEGACY_MAGIC, LEGACY_VERSION] or type(plain[2]) is not dict or plain[2].get("little_endian") is not True:
        raise Refused("it holds a storage that is not in torch's little-endian format")
    names = {("torch", title): Name(title) for title in DTYPES}
    found = Machine(reader, names, budget, persistent=storage_header).run()
    if type(found) is not _Header or Machine(reader, {}, budget).run() != [found.key] or reader.number("<q") != found.n:
        raise Refused("it holds a storage whose header does not agree with itself")
    values = _read_numbers(reader, found)
    data.file.seek(outer)
    return values


class _Header:
    """A storage as its own pickle describes it: dtype, key and number of elements."""

    def __init__(self, dtype: torch.dtype, key: str, n: int):
        self.dtype, self.key, self.n = dtype, key, n


def storage_header(value: Any, dtypes: Mapping[str, torch.dtype] = DTYPES) -> _Header:
    """The persistent id ("storage", type, key, location, number of elements, view); whole storages of these types only."""
    if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage" or value[5:] not in ((), (None,)):
        raise Refused("it holds a storage with an unknown kind of header")
    kind, key, n = value[1], value[2], value[4]
    if type(kind) is not Name or kind.title not in dtypes or type(key) is not str or type(n) is not int or n < 0:
        raise Refused("it holds a storage whose header does not name type, key and size")
    return _Header(dtypes[kind.title], key, n)


def _read_numbers(reader: Reader, header: _Header) -> Tensor:
    """The numbers of a storage, read into memory of their own (aligned, and counted once)."""
    n_bytes = header.n * header.dtype.itemsize
    reader.claim(n_bytes)
    values = torch.empty(n_bytes, dtype=torch.uint8)
    if n_bytes and reader.file.readinto(memoryview(values.numpy())) != n_bytes:
        raise Refused("it became shorter while it was read")
    return values.view(header.dtype)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, budget: Budget) -> Tensor:
    """A part of a storage whose numbers follow each other in the order of the axes, or of the axes as `stride` sorts them (channels last).

    Other strides are refused: with them a small file can claim a tensor of any size. The result is contiguous.
    """
    if type(storage) is not Tensor or type(offset) is not int or type(shape) is not tuple or type(stride) is not tuple:
        raise Refused("it holds a tensor without storage, offset, shape or strides")
    if len(shape) != len(stride) or len(shape) > 8 or any(type(n) is not int or n < 0 for n in (*shape, *stride, offset)):
        raise Refused("it holds a tensor whose shape or strides are no sizes")
    n = math.prod(shape)
    # Axes of one element may have any stride; they come last, where they change nothing.
    order = sorted(range(len(shape)), key=lambda axis: (shape[axis] == 1, -stride[axis]))
    sizes = [shape[axis] for axis in order]
    if n and any(shape[axis] > 1 and stride[axis] != math.prod(sizes[k + 1 :]) for k, axis in enumerate(order)):
        raise Refused("it holds a tensor that is not contiguous, in whatever order of its axes")
    if offset + n > storage.numel():
        raise Refused(f"it claims the numbers {offset} to {offset + n} of a storage of {storage.numel()}")
    budget.claim("tensors", n * storage.element_size())
    values, dense = storage[offset : offset + n], [axis for axis in order if shape[axis] > 1]
    if dense == sorted(dense):
        return values.reshape(shape)
    return values.reshape(sizes).permute([order.index(axis) for axis in range(len(shape))]).clone(memory_format=torch.contiguous_format)
