"""All that a GPU which is lent for a quarter of an hour is to answer: `make gpu`, or part by part `python benchmarks/gpu.py --parts right`.

Parts, in this order: `right` (does it compute what the CPU does), `fast` (images a second, memory, share of the peak), `real` (a suite at a
size that fits). Every result is on disk as soon as it is known; after a cut the same command goes on where it was.
Exit codes: 0 all measured, and all of `right` within its bounds; 1 something failed or was out of its bounds; 3 no GPU; 75 the time was up,
call it again.
"""

import argparse
import hashlib
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gpu_fast
import gpu_real
import gpu_right
import torch
from bench import apart
from gpu_results import Group, Results, Settings, markdown_rows, measure

from backtrail.artifacts import atomic_write
from backtrail.layout import PARAMS_FILE
from backtrail.ledger.record import processor

ROOT = Path(__file__).parents[1]
NO_GPU, TIME_IS_UP = 3, 75
PARTS = ("right", "fast", "real")
TABLES = {"right": (gpu_right.groups, gpu_right.COLUMNS), "fast": (gpu_fast.groups, gpu_fast.COLUMNS)}
BEGAN = time.monotonic()


def options(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu is a rehearsal")
    parser.add_argument("--tiny", action="store_true", help="tiny nets, for a rehearsal")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", nargs=3, type=float, default=[2, 4, 8], metavar=tuple(part.upper() for part in PARTS), help="for each")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each speed; two updates at least")
    parser.add_argument("--params", type=Path, default=ROOT / PARAMS_FILE, help="the suite whose methods are measured")
    parser.add_argument("--images", type=Path, default=Path("data/local/cifar10-images.tar.xz"), help="archive for `real`")
    parser.add_argument("--work", type=Path, default=Path(".scratch/gpu"), help="the suite's folder of `real`; a second lease needs it too")
    parser.add_argument("--out", type=Path, default=Path("reports/gpu"), help="folder for what is found, eight files at the most")
    return parser.parse_args(words)


def facts(device: str, tiny: bool) -> dict[str, Any]:
    """What results are true of; they are not mixed with those of another device or code."""
    about = {"device": device, "tiny": tiny, "torch": torch.__version__, "python": platform.python_version(), "code": code_digest()}
    if device == "cpu":
        return about | {"name": processor(), "driver": "none", "memory_gb": None}
    p = torch.cuda.get_device_properties(0)
    return about | {"name": p.name, "driver": driver(), "memory_gb": round(p.total_memory / 1e9, 1)}


def driver() -> str:
    """The version of NVIDIA's driver, as the kernel tells it."""
    path = Path("/proc/driver/nvidia/version")
    words = path.read_text(encoding="utf-8").split() if path.exists() else []
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown") + f", CUDA {torch.version.cuda}"


def code_digest() -> str:
    """Of all of the package's code."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src/backtrail").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def say(text: str) -> None:
    """A line, at once, with the seconds since the start."""
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {text}", flush=True)


def table_part(part: str, minutes: float, about: dict[str, Any], settings: Settings, out: Path) -> tuple[bool, bool]:
    """A part whose result is a table: (whether every row is there, whether none failed or is out of its bounds)."""
    make_groups, columns = TABLES[part]
    results, groups = Results(out / f"{part}.json", about), make_groups()
    there, until = len(results.rows), time.monotonic() + 60 * minutes
    say(f"{part}: {there} rows are there, {sum(len(group.keys) for group in groups) - there} to come, {minutes:g} minutes")
    complete = measure(results, groups, settings, until, lambda line: say(f"{part}: {line}"))
    missing = [key for group in groups for key in group.keys if key not in results.rows]
    write_table(out / f"{part}.md", part, results, groups, missing, columns)
    return complete, all("failed" not in row and row.get("within", True) for row in results.rows.values())


def write_table(path: Path, part: str, results: Results, groups: list[Group], missing: list[str], columns: dict[str, str]) -> None:
    """The part as Markdown, in the order of the groups, device and driver named."""
    about = results.about
    rows = {key: results.rows[key] for group in groups for key in group.keys if key in results.rows}
    rehearsal = " Rehearsal with tiny nets: its speeds mean nothing." if about["tiny"] else ""
    text = f"`{part}`: {about['name']}, driver {about['driver']}, torch {about['torch']}, code {about['code']}.{rehearsal}\n\n"
    text += markdown_rows(rows, columns) + "\n"
    if missing:
        text += f"\nNot measured, for the time was up: {'; '.join(missing)}.\n"
    atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"))
    print("\n" + text, flush=True)


def main(words: list[str] | None = None) -> int:
    """Run the parts; returns the exit code."""
    a = options(words)
    if a.device == "cuda" and not apart(torch.cuda.is_available):
        print("torch finds no GPU here, so there is nothing to measure; `--device cpu --tiny` rehearses.", file=sys.stderr)
        return NO_GPU
    about = apart(facts, a.device, a.tiny)
    say(f"{about['name']}, driver {about['driver']}, torch {about['torch']}; results in {a.out}")
    settings, complete, right = Settings(a.device, a.tiny, a.params.resolve(), a.seconds), True, True
    for part, minutes in zip(PARTS, a.minutes, strict=True):
        if part not in a.parts:
            continue
        if part == "real":
            ended, good = gpu_real.run(a.work, a.images, a.out, about, settings, minutes, say)
        else:
            ended, good = table_part(part, minutes, about, settings, a.out)
        complete, right = complete and ended, right and good
    say("all measured" if complete else "the time was up: the same command goes on")
    return (0 if right else 1) if complete else TIME_IS_UP


if __name__ == "__main__":
    # By default a SIGTERM would end this process at once, and leave what it has started to run on.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
