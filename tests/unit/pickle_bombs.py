"""Small pickles that ask for much; run as a script, it imports each of a folder in a process of its own and prints what came of it.

Usage: python pickle_bombs.py FOLDER
"""

import json
import os
import resource
import struct
import sys
import time
from pathlib import Path

from pickle_bytes import BUILD_TENSOR, LOAD_STORAGE, ORDERED_DICT, PROTOCOL, blob, record, storage, stored, tensor, text

MANY = 100_000
SECONDS, ADDRESS_SPACE_BYTES = 60, 8 << 30  # so that a regression ends itself, and not the machine
NOTHING_ELSE = b"\x86\x86."  # pairs of what is on the stack, and the end


def put(k: int) -> bytes:
    return b"r" + struct.pack("<I", k)


def get(k: int) -> bytes:
    return b"j" + struct.pack("<I", k)


def number(k: int) -> bytes:
    return b"J" + struct.pack("<i", k)


def wide(k: int) -> bytes:
    """A multiple of 2^61 - 1: all of them have the hash 0."""
    return b"\x8a\x0b" + (k * (2**61 - 1)).to_bytes(11, "little", signed=True)


def again(function: bytes, arguments: bytes, times: int) -> bytes:
    """The same call of the same arguments, again and again."""
    return PROTOCOL + function + put(2) + arguments + put(1) + b"(" + (get(2) + get(1) + b"R") * times + b"t" + NOTHING_ELSE


SIZES = b"}(" + b"".join(text(key) + b"K\x04" for key in ("img_resolution", "in_channels", "out_channels")) + b"u"


def ema(modules: bytes, arguments: bytes = SIZES) -> bytes:
    """A checkpoint whose network has these modules and was made with these arguments."""
    net = record("SongUNet", b"}(" + text("_init_kwargs") + arguments + text("_modules") + modules + b"u")
    outer = record("EDMPrecond", b"}" + text("_modules") + b"}" + text("model") + net + b"ss")
    return PROTOCOL + b"}" + text("ema") + outer + b"s."


def bombs() -> dict[str, bytes]:
    numbers = b"".join(number(k) for k in range(MANY))
    pairs = b"](" + b"".join(number(k) + b"N\x86" for k in range(MANY)) + b"e"
    items = b"}(" + b"".join(number(k) + b"N" for k in range(MANY)) + b"u"
    module = b"ctorch.nn.modules.container\nModuleDict\n"
    filled = get(2) + b")\x81" + get(1) + b"b"
    four = tensor(b"K\x04\x85", b"K\x01\x85")
    empty = stored(storage()) + b"K\x00K\x00\x85K\x01\x85\x89" + ORDERED_DICT + b")R"
    weights = b"}" + text("_parameters") + b"}(" + b"".join(number(k) + get(5) for k in range(50_000)) + b"us"
    first = text("first") + four + put(5) + text("m") + record("X", weights) + put(6)
    names = b"".join(text(f"m{k}") + get(6) for k in range(5000))
    below = b"}" + text("_modules") + b"}(" + text("c") + record("Y", b"}") + put(6) + names + b"us"
    return {
        "list in 300 ordered dicts": again(ORDERED_DICT, pairs + b"\x85", 300),
        "list in 300 sets": again(b"cbuiltins\nset\n", b"](" + numbers + b"e\x85", 300),
        "dict in 300 modules": PROTOCOL + items + put(1) + module + put(2) + b"(" + filled * 300 + b"t" + NOTHING_ELSE,
        "tuple in 300 calls": again(b"cnumpy\ndtype\n", b"(" + text("f8") + numbers + b"t", 300),
        "blob loaded 500 times": again(LOAD_STORAGE, blob(storage(n=1_000_000, values=bytes(4_000_000))) + b"\x85", 500),
        "small blob loaded 60,000 times": again(LOAD_STORAGE, blob(storage()) + b"\x85", 60_000),
        "text encoded 500 times": again(b"c_codecs\nencode\n", text("a" * 4_000_000) + text("latin1") + b"\x86", 500),
        "keys of one hash": PROTOCOL + b"}(" + b"".join(wide(k) + b"N" for k in range(20_000)) + b"u.",
        "members of one hash": PROTOCOL + b"\x8f(" + b"".join(wide(k) for k in range(20_000)) + b"\x90.",
        "a million sets": PROTOCOL + b"(" + b"\x8f" * 1_000_000 + b"t.",
        "two million places of memory": PROTOCOL + b"]" + b"\x94" * 1_900_000 + b".",
        "80,000 empty tensors": again(BUILD_TENSOR, b"(" + empty + b"t", 80_000),
        "300,000 modules": PROTOCOL + module + put(2) + b"(" + (get(2) + b")\x81") * 300_000 + b"t\x86.",
        "50,000 weights under 1,000 names": ema(b"}(" + first + b"".join(text(f"m{k}") + get(6) for k in range(1000)) + b"u"),
        "a name of 200 kB above 5,000 modules": ema(b"}" + text("n" * 200_000) + record("X", below) + b"s"),
        "300,000 arguments": ema(b"}", b"}(" + b"".join(text(f"a{k}") + b"N" for k in range(300_000)) + b"u"),
    }


def main(folder: Path) -> None:
    import torch

    from backtrail.errors import UserError
    from backtrail.teachers.edm import import_edm

    torch.set_num_threads(1)
    for path in sorted(folder.glob("*.pkl")):
        name = path.stem
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            if status:
                print(json.dumps({"name": name, "sentence": f"ended by status {status}", "seconds": 0, "peak_bytes": 0}), flush=True)
            continue
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
        before, start = _memory("VmRSS"), time.process_time()
        try:
            import_edm(path)
            sentence = "accepted"
        except UserError as error:
            sentence = str(error)
        except BaseException as error:
            sentence = f"traceback of {type(error).__name__}"
        found = {"seconds": time.process_time() - start, "peak_bytes": _memory("VmHWM") - before}
        print(json.dumps({"name": name, "sentence": sentence, **found}), flush=True)
        os._exit(0)


def _memory(key: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
