"""Reads a foreign pickle as data: a pickle machine that has no way to call anything.

Python's own unpickler imports whatever a file names and calls it. This one knows the binary opcodes of protocols 2 to 5 that build numbers,
strings, lists, dicts, sets and tuples, and looks each name that the file uses up in a closed table of our own functions, which build
tensors and records. A name outside the table, an opcode outside the list, a claim larger than the file, nesting beyond a limit, or more
work than the `Budget` of the whole import ends the reading. Long byte strings stay in the file as `Blob`s until someone reads them, so a
checkpoint is never in memory as a whole.
"""

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backtrail.teachers.budget import Budget
from backtrail.teachers.reader import Reader, Refused
from backtrail.teachers.recognised import of_name

MAX_DEPTH = 100  # nesting of containers; EDM needs 12
MAX_KEY = 1 << 60  # integers as keys: beyond 2^61 as many as one likes have one hash, and each is compared with all others
SET_WORK, RECORD_WORK = 3, 5  # an empty set has 216 bytes, a record about 400


@dataclass(frozen=True)
class Name:
    """An entry of the table of known names: what stands for it when it is called, made anew, or given a state (None: refused)."""

    title: str
    call: Callable[..., Any] | None = None
    new: Callable[[], Any] | None = None


def title(value: Any) -> str:
    """What to call a value in a sentence: a known name by itself, anything else by its type."""
    return value.title if type(value) is Name else type(value).__name__


@dataclass
class Record:
    """An object of the file, as data: the name of its class and its attributes."""

    class_name: str
    state: dict[Any, Any] = field(default_factory=dict)


class Machine:
    """The pickle machine: `run` reads one pickle from `reader` and returns its value, built of data only.

    names       what the file may name: (module, name) -> Name
    budget      what the import may still use; nested machines share it
    persistent  what a persistent id (torch's way to point at a storage) means; None: refused
    """

    def __init__(
        self, reader: Reader, names: Mapping[tuple[str, str], Name], budget: Budget, persistent: Callable[[Any], Any] | None = None
    ):
        self.reader, self.names, self.budget, self.persistent = reader, names, budget, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            self.budget.spend(1)
            code = self.reader.read(1)
            if code == pickle.STOP:
                value = self.pop()
                if self.stack or self.marks:
                    raise Refused("it ends in the middle of a value")
                check_plain(value)
                return value
            operation = OPERATIONS.get(code)
            if operation is None:
                raise Refused(f"it uses opcode {code!r} at byte {self.reader.position - 1}, which no checkpoint needs")
            operation(self)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused("it takes a value that was never given")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        self.push(value := self.pop())
        if type(value) is not kind:
            raise Refused(f"it fills a {type(value).__name__} as if it were a {kind.__name__}")
        return value

    def above_mark(self) -> list[Any]:
        if not self.marks:
            raise Refused("it closes a group that was never opened")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def remember(self, index: int) -> None:
        self.push(value := self.pop())
        self.memo[index] = value

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise Refused("it recalls a value that was never given")
        self.push(self.memo[index])

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refused("it names something by other than text")
        known = self.names.get((module, name))
        if known is None:
            raise of_name(module, name)
        self.push(known)

    def reduce(self) -> None:
        arguments, known = self.pop(), self.pop()
        if type(known) is not Name or known.call is None or type(arguments) is not tuple:
            raise Refused(f"it calls {title(known)}, which is not a constructor of a checkpoint")
        self.budget.spend(len(arguments))  # a function may take any number, and the tuple be used again and again
        try:
            self.push(known.call(*arguments))
        except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError, struct.error, RuntimeError) as error:
            raise Refused(f"it gives {known.title} arguments that do not fit ({type(error).__name__})") from None

    def new(self) -> None:
        arguments, known = self.pop(), self.pop()
        if type(known) is not Name or known.new is None or arguments != ():
            raise Refused(f"it makes a new {title(known)}, which is not a class of a checkpoint")
        self.budget.spend(RECORD_WORK)
        self.push(known.new())

    def build(self) -> None:
        """A state is taken by records alone, as their attributes; nothing has a `__setstate__`."""
        state, target = self.pop(), self.pop()
        if type(target) is DType:
            target.check_state(state)
        elif type(target) is Record and type(state) is dict and not target.state:
            self.budget.spend(len(state))
            target.state.update(state)
        else:
            raise Refused(f"it gives a state to a {type(target).__name__}, which takes none")
        self.push(target)

    def set_items(self, values: list[Any]) -> None:
        target = self.top(dict)
        if len(values) % 2:
            raise Refused("it gives a dict a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[scalar(key)] = value

    def persistent_id(self) -> None:
        if self.persistent is None:
            raise Refused("it points to something outside itself (a persistent id)")
        self.push(self.persistent(self.pop()))

    def protocol(self, version: int) -> None:
        if version not in (2, 3, 4, 5):
            raise Refused(f"it is a pickle of protocol {version} (2 to 5 are read)")


@dataclass(frozen=True)
class DType:
    """A numpy type: its code, such as "f8"."""

    code: str

    def check_state(self, state: Any) -> None:
        if not (type(state) is tuple and len(state) > 1 and state[1] in ("<", "|")):
            raise Refused("it holds numpy numbers that are not little-endian")


def scalar(value: Any) -> Any:
    """`value` if it may be a dict's key or a set's member: only flat types, since hashing deep ones is recursive in C."""
    if value is not None and type(value) not in (str, int, float, bool, bytes):
        raise Refused(f"it uses a {type(value).__name__} as a key")
    if type(value) is int and abs(value) > MAX_KEY:
        raise Refused(f"it uses an integer of {value.bit_length()} bits as a key")
    return value


def children(value: Any) -> Any:
    if type(value) is Record:
        return value.state.values()
    return value.values() if type(value) is dict else value if type(value) in (list, tuple) else ()


def check_plain(root: Any) -> None:
    """Refuse values that contain themselves or are nested deeper than MAX_DEPTH, without recursion of our own.

    `depths` holds the height of each container when it is done and None while it is open: meeting an open one is a cycle.
    """
    depths: dict[int, int | None] = {}
    pending = [(root, False)]
    while pending:
        value, done = pending.pop()
        if done:
            depths[id(value)] = 1 + max((depths.get(id(child)) or 0 for child in children(value)), default=0)
            if depths[id(value)] > MAX_DEPTH:
                raise Refused(f"it is nested more than {MAX_DEPTH} levels deep")
        elif type(value) in (list, tuple, dict, Record):
            if id(value) in depths:
                if depths[id(value)] is None:
                    raise Refused("it contains itself")
                continue
            depths[id(value)] = None
            pending.append((value, True))
            pending.extend((child, False) for child in children(value))


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda m: m.push(value)


def _tuple(size: int) -> Callable[[Machine], None]:
    return lambda m: m.push(tuple([m.pop() for _ in range(size)][::-1]))


def _name_from_stack(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _set_item(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.set_items([key, value])


def _append(m: Machine) -> None:
    value = m.pop()
    m.top(list).append(value)


def _extend(m: Machine) -> None:
    values = m.above_mark()
    m.top(list).extend(values)


def _empty_set(m: Machine) -> None:
    m.budget.spend(SET_WORK)
    m.push(set())


def _add_members(m: Machine) -> None:
    values = m.above_mark()
    m.top(set).update(map(scalar, values))


OPERATIONS: dict[bytes, Callable[[Machine], None]] = {
    pickle.PROTO: lambda m: m.protocol(m.reader.number("B")),
    pickle.FRAME: lambda m: m.reader.claim(m.reader.number("<Q")),
    pickle.NONE: _constant(None),
    pickle.NEWTRUE: _constant(True),
    pickle.NEWFALSE: _constant(False),
    pickle.BININT: lambda m: m.push(m.reader.number("<i")),
    pickle.BININT1: lambda m: m.push(m.reader.number("B")),
    pickle.BININT2: lambda m: m.push(m.reader.number("<H")),
    pickle.LONG1: lambda m: m.push(int.from_bytes(m.reader.read(m.reader.number("B")), "little", signed=True)),
    pickle.BINFLOAT: lambda m: m.push(m.reader.number(">d")),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.reader.text(m.reader.number("B"))),
    pickle.BINUNICODE: lambda m: m.push(m.reader.text(m.reader.number("<I"))),
    pickle.BINUNICODE8: lambda m: m.push(m.reader.text(m.reader.number("<Q"))),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.reader.data(m.reader.number("B"))),
    pickle.BINBYTES: lambda m: m.push(m.reader.data(m.reader.number("<I"))),
    pickle.BINBYTES8: lambda m: m.push(m.reader.data(m.reader.number("<Q"))),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.EMPTY_SET: _empty_set,
    pickle.EMPTY_TUPLE: _constant(()),
    pickle.TUPLE1: _tuple(1),
    pickle.TUPLE2: _tuple(2),
    pickle.TUPLE3: _tuple(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.above_mark())),
    pickle.MARK: lambda m: m.marks.append(len(m.stack)),
    pickle.APPEND: _append,
    pickle.APPENDS: _extend,
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: lambda m: m.set_items(m.above_mark()),
    pickle.ADDITEMS: _add_members,
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.BINPUT: lambda m: m.remember(m.reader.number("B")),
    pickle.LONG_BINPUT: lambda m: m.remember(m.reader.number("<I")),
    pickle.BINGET: lambda m: m.recall(m.reader.number("B")),
    pickle.LONG_BINGET: lambda m: m.recall(m.reader.number("<I")),
    pickle.GLOBAL: lambda m: m.name(m.reader.line(), m.reader.line()),
    pickle.STACK_GLOBAL: _name_from_stack,
    pickle.REDUCE: Machine.reduce,
    pickle.NEWOBJ: Machine.new,
    pickle.BUILD: lambda m: m.build(),
    pickle.BINPERSID: Machine.persistent_id,
}
