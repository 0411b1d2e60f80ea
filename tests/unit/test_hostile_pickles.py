"""Hostile checkpoints: each is refused with one sentence, quickly, and the code that it carries never runs (a canary file tells)."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edm_pickles import foreign_ema, randomised, write_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pickle_bytes import BUILD_TENSOR, LOAD_STORAGE, ORDERED_DICT, PERSISTENT, PROTOCOL, TYPES, storage, stored, tensor, text

from backtrail.errors import UserError
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.teachers.edm import import_edm
from backtrail.teachers.pickled_tensors import read_pickle

torch.set_num_threads(1)


class Call:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def zipped(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


TEN_GB = 10_000_000_000
BIG = b"\x8a\x08" + struct.pack("<q", TEN_GB)


def hostile_files(shell: str, code: str) -> dict[str, tuple[bytes, str]]:
    """Name -> (file, what its refusal must say); `shell` and `code` are commands that make the canary."""
    system = b"cposix\nsystem\n" + text(shell) + b"\x85R"
    evil = pickle.dumps(Call(os.system, shell))
    bare_header = b"\x80\x02" + system + b"."
    module = PERSISTENT + b"}(" + text("type") + text("class") + text("class_name") + text("X") + text("state") + b"%s" + b"u\x85R"
    return {
        # names outside the table, in every place where a name can stand
        "os.system reducer": (evil, "'posix.system', which is not part of a checkpoint"),
        "os.system, protocol 0": (f"cos\nsystem\n(S'{shell}'\ntR.".encode(), "'os.system'"),
        "builtins.eval": (pickle.dumps(Call(eval, code)), "'builtins.eval'"),
        "builtins.exec": (pickle.dumps(Call(exec, code), 2), "'__builtin__.exec'"),
        "builtins.__import__": (pickle.dumps(Call(__import__, "os")), "'builtins.__import__'"),
        "torch.load": (pickle.dumps(Call(torch.load, "x")), "'torch.serialization.load'"),
        "a dotted name": (PROTOCOL + text("torch.storage") + text("os.system") + b"\x93.", "'torch.storage.os.system'"),
        "a name with a terminal sequence": (PROTOCOL + text("\x1b[2J\n") + text("x") + b"\x93.", r"'\x1b[2J\n.x'"),
        "a name that is no text": (PROTOCOL + b"K\x01" + text("system") + b"\x93.", "by other than text"),
        "reducer in the weights": (PROTOCOL + b"}" + text("ema") + system + b"s.", "'posix.system'"),
        "reducer in the attributes": (PROTOCOL + module.replace(b"%s", b"}" + text("a") + system + b"s") + b".", "'posix.system'"),
        # calls of known names, and of things that are no names
        "a class is called": (PROTOCOL + b"ctorch.nn.modules.container\nModuleDict\n)R.", "it calls ModuleDict"),
        "a function is made anew": (PROTOCOL + LOAD_STORAGE + b")\x81.", "makes a new torch.storage._load_from_bytes"),
        "a class made with arguments": (PROTOCOL + b"ctorch.nn.modules.container\nModuleDict\nK\x01\x85\x81.", "makes a new ModuleDict"),
        "a text is called": (PROTOCOL + text("os.system") + text(shell) + b"\x85R.", "it calls str"),
        "too many arguments": (PROTOCOL + LOAD_STORAGE + b"K\x01K\x02\x86R.", "arguments that do not fit (TypeError)"),
        "persistent object without class": (PROTOCOL + PERSISTENT + b"}\x85R.", "without a description"),
        # states
        "BUILD of a dict": (PROTOCOL + b"}}" + text("__setstate__") + text(shell) + b"sb.", "gives a state to a dict"),
        "BUILD of an ordered dict": (PROTOCOL + ORDERED_DICT + b")R}b.", "gives a state to a dict"),
        "BUILD of a tensor": (PROTOCOL + tensor(b"K\x04\x85", b"K\x01\x85") + b"}b.", "gives a state to a Tensor"),
        "BUILD of a name": (PROTOCOL + ORDERED_DICT + b"}" + text("call") + text(shell) + b"sb.", "gives a state to a Name"),
        "BUILD twice": (PROTOCOL + module.replace(b"%s", b"}" + text("a") + b"Ns") + b"}b.", "gives a state to a Record"),
        # storages
        "nested reducer in the magic": (PROTOCOL + stored(evil + storage()) + b".", "'posix.system'"),
        "nested reducer in the header": (PROTOCOL + stored(storage(header=bare_header)) + b".", "'posix.system'"),
        "nested reducer in the keys": (PROTOCOL + stored(storage(keys=Call(os.system, shell))) + b".", "'posix.system'"),
        "nested storage in a storage": (
            PROTOCOL + stored(storage(header=b"\x80\x02" + stored(storage()) + b".")) + b".",
            "_load_from_bytes'",
        ),
        "storage of objects": (PROTOCOL + stored(storage(kind=b"PyObjectStorage")) + b".", "'torch.PyObjectStorage'"),
        "big-endian storage": (PROTOCOL + stored(storage(info={**TYPES, "little_endian": False})) + b".", "little-endian format"),
        "storage with another key": (PROTOCOL + stored(storage(keys=["1"])) + b".", "not agree with itself"),
        "storage of a short text": (PROTOCOL + stored(b"abc") + b".", "few bytes"),
        "storage made of a list": (PROTOCOL + LOAD_STORAGE + b"]\x85R.", "storage made of a list"),
        "zip storage with a wrong record": (PROTOCOL + stored(zipped({"archive/data.pkl": evil})) + b".", "opcode b'P'"),
        "zip checkpoint with a wrong record": (zipped({"archive/data.pkl": evil, "../canary": b"x"}), "a zip file"),
        "persistent id outside a storage": (PROTOCOL + text(shell) + b"Q.", "points to something outside itself"),
        # claims
        "10 GB of numbers in a storage": (PROTOCOL + stored(storage(n=TEN_GB // 4)) + b".", f"{TEN_GB} more bytes were promised"),
        "10 GB tensor": (PROTOCOL + tensor(BIG + b"\x85", b"K\x01\x85") + b".", f"the numbers 0 to {TEN_GB} of a storage of 4"),
        "10 GB tensor by a zero stride": (PROTOCOL + tensor(BIG + b"\x85", b"K\x00\x85") + b".", "not contiguous"),
        "tensor behind its storage": (PROTOCOL + tensor(b"K\x04\x85", b"K\x01\x85", offset=BIG) + b".", f"the numbers {TEN_GB} to"),
        "tensor of negative size": (PROTOCOL + tensor(b"J\xff\xff\xff\xff\x85", b"K\x01\x85") + b".", "no sizes"),
        "10 GB byte string": (PROTOCOL + b"\x8e" + struct.pack("<Q", TEN_GB) + b"x.", f"{TEN_GB} more bytes"),
        "10 GB text": (PROTOCOL + b"\x8d" + struct.pack("<Q", TEN_GB) + b"x.", f"claims a text of {TEN_GB} bytes"),
        "10 GB frame": (PROTOCOL + b"\x95" + struct.pack("<Q", TEN_GB) + b"N.", f"{TEN_GB} more bytes"),
        "one storage, many tensors": (PROTOCOL + _many_tensors() + b".", "claim more than the"),
        "number without end": (PROTOCOL + b"\x8b\xff\xff\xff\x7f.", r"opcode b'\x8b'"),
        "endless name": (PROTOCOL + b"c" + b"a" * 5000 + b"\n\n.", "more than 256 characters"),
        # nesting and size
        "nested lists": (PROTOCOL + b"]" * 300_000 + b"a" * 299_999 + b".", "nested more than 100 levels"),
        "nested tuples": (PROTOCOL + b")" + b"\x85" * 300_000 + b".", "nested more than 100 levels"),
        "nested tuples as a key": (PROTOCOL + b"})" + b"\x85" * 300_000 + b"Ns.", "a tuple as a key"),
        "nested modules": (PROTOCOL + _nested_modules(300) + b".", "nested more than 100 levels"),
        "a list in itself": (PROTOCOL + b"]\x94h\x00a.", "contains itself"),
        "many small objects": (PROTOCOL + b"(" + b"]" * 2_000_001 + b"l.", "more than 1000000 units of work"),
        # broken machines
        "empty file": (b"", "ends where 1 more bytes"),
        "no value": (PROTOCOL + b".", "never given"),
        "a value from before the mark": (PROTOCOL + b"](a.", "never given"),
        "no mark": (PROTOCOL + b"t.", "never opened"),
        "unfinished": (PROTOCOL + b"]].", "in the middle of a value"),
        "memory of nothing": (PROTOCOL + b"h\x07.", "recalls a value that was never given"),
        "append to a text": (PROTOCOL + text("a") + b"Na.", "fills a str as if it were a list"),
        "odd dict": (PROTOCOL + b"}(K\x01u.", "a key without a value"),
        "text that is none": (PROTOCOL + b"\x8c\x02\xff\xff.", "not utf-8"),
        "protocol 9": (b"\x80\x09N.", "protocol 9"),
        "extension registry": (PROTOCOL + b"\x82\x01.", r"opcode b'\x82'"),
        "INST": (b"(ios\nsystem\n.", "opcode b'i'"),
        "OBJ": (PROTOCOL + b"(" + ORDERED_DICT + b"o.", "opcode b'o'"),
        "unknown opcode": (PROTOCOL + b"\xff.", r"opcode b'\xff' at byte 2"),
        "numpy objects": (PROTOCOL + b"cnumpy\ndtype\n" + text("O8") + b"\x85R.", "numpy type"),
    }


def _many_tensors() -> bytes:
    """A hundred tensors, each the whole of one storage of 4 kB that the file holds once."""
    one = BUILD_TENSOR + b"(h\x00K\x00M\xe8\x03\x85K\x01\x85\x89" + ORDERED_DICT + b")RtR"
    return b"](" + stored(storage(n=1000, values=bytes(4000))) + b"\x94" + one * 100 + b"e"


def _nested_modules(depth: int) -> bytes:
    start = PERSISTENT + b"}(" + text("type") + text("class") + text("class_name") + text("X") + text("state") + b"}" + text("_modules")
    return start * depth + b"}" + b"su\x85R" * depth


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def commands(canary: Path) -> tuple[str, str]:
    return f"touch {canary}", f"open({str(canary)!r}, 'w')"


@pytest.mark.parametrize("name", hostile_files("true", "1"))
def test_is_refused_with_one_sentence_and_nothing_runs(name, tmp_path, canary):
    content, reason = hostile_files(*commands(canary))[name]
    path = tmp_path / "hostile.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        import_edm(path)
    sentence = str(error.value)
    assert reason in sentence and "nothing in it was executed" in sentence
    assert "\n" not in sentence and len(sentence) < 600
    assert not canary.exists()


@pytest.mark.parametrize("name", ["os.system reducer", "builtins.eval", "os.system, protocol 0"])
def test_the_canary_sings_when_such_a_file_is_unpickled_as_usual(name, canary):
    content, _ = hostile_files(*commands(canary))[name]
    pickle.loads(content)
    assert canary.exists()


def tiny() -> EDMTeacher:
    net = SongUNetConfiguration(img_resolution=4, in_channels=1, out_channels=1, model_channels=8, channel_mult=(1,), num_blocks=1)
    return EDMTeacher(preconditioning=EDM(), net=net)


def test_the_source_in_a_checkpoint_is_not_executed(tmp_path, canary):
    shell, _ = commands(canary)
    source = f"__import__('os').system({shell!r})\nthis is not even python ("
    denoiser = randomised(tiny())
    imported = import_edm(write_checkpoint(tmp_path / "teacher.pkl", foreign_ema(denoiser, tiny(), source)))
    assert not canary.exists()
    assert all(torch.equal(a, b) for a, b in zip(imported.state_dict().values(), denoiser.state_dict().values(), strict=True))


def test_a_reducer_among_true_weights_is_refused(tmp_path, canary):
    ema = foreign_ema(randomised(tiny()), tiny(), hook=Call(os.system, commands(canary)[0]))
    with pytest.raises(UserError, match=r"posix\.system"):
        import_edm(write_checkpoint(tmp_path / "teacher.pkl", ema))
    assert not canary.exists()


def test_shared_modules_cannot_multiply(tmp_path):
    """Thirty levels of a module that has the next one twice would be 2^30 names."""
    path = tmp_path / "teacher.pkl"
    path.write_bytes(PROTOCOL + _doubling(30) + b".")
    with pytest.raises(UserError, match="more modules and weights"):
        import_edm(path)


def _doubling(depth: int) -> bytes:
    """An `ema` with a `model` in which every module holds the one below it under two names."""

    def record(class_name: str, modules: bytes) -> bytes:
        head = PERSISTENT + b"}(" + text("type") + text("class") + text("class_name") + text(class_name) + text("state")
        kwargs = b"".join(text(k) + b"K\x04" for k in ("img_resolution", "in_channels", "out_channels"))
        return head + b"}(" + text("_init_kwargs") + b"}(" + kwargs + b"u" + text("_modules") + modules + b"uu\x85R"

    tree = b"}"
    for level in range(depth):
        index = bytes([level])
        tree = b"}(" + text("a") + record("X", tree) + b"q" + index + text("b") + b"h" + index + b"u"
    return b"}" + text("ema") + record("EDMPrecond", b"}" + text("model") + record("SongUNet", tree) + b"s") + b"s"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "teacher.pkl"
    return write_checkpoint(path, foreign_ema(randomised(tiny()), tiny())).read_bytes()


def test_every_truncation_is_refused(checkpoint, tmp_path):
    path = tmp_path / "cut.pkl"
    for size in range(0, len(checkpoint), max(1, len(checkpoint) // 400)):
        path.write_bytes(checkpoint[:size])
        with pytest.raises(UserError, match="more bytes were promised"):
            read_pickle(path)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_ends_in_a_sentence_or_in_a_network(checkpoint, tmp_path, changes):
    damaged = bytearray(checkpoint)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    path = tmp_path / "damaged.pkl"
    path.write_bytes(damaged)
    try:
        import_edm(path)
    except UserError as error:
        assert "\n" not in str(error)


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(st.sampled_from([bytes([b]) for b in b"()]}.NKabetu0RQh\x81\x85\x86\x87\x88\x8f\x90\x93\x94"]), max_size=30))
def test_random_programs_end_in_a_sentence_or_a_value(tmp_path, content):
    names = [BUILD_TENSOR, LOAD_STORAGE, ORDERED_DICT, PERSISTENT, b"cnumpy\ndtype\n", text("f8")]
    program = b"".join(names[i % 6] if piece == b"K" else piece for i, piece in enumerate(content))
    path = tmp_path / "program.pkl"
    path.write_bytes(PROTOCOL + program + b".")
    try:
        read_pickle(path)
    except UserError as error:
        assert "nothing in it was executed" in str(error)
