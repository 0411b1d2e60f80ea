"""How fast the methods train here, and how near that is to the work they cannot do without: `make bench`.

The yardstick is F, one forward of the same net on as many images, timed in turns with the update in the same process. An update is worth
a whole number of forwards (a forward with its backward counts as three); `ratio` is its time divided by that many forwards' time. Each
method has a process of its own, so that its memory is its own. Ratios are medians over the turns: of time on the wall on a GPU, of CPU
time on a CPU, which other work on the machine disturbs less.
"""

import argparse
import csv
import multiprocessing
import platform
import resource
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar
from unittest import mock

import torch
from timing import Clock, counting, middle, parts
from tricks import TRICKS, checkpoint
from updates import CASES, Setup

from backtrail.artifacts import save_json
from backtrail.layout import PARAMS_FILE
from backtrail.ledger.record import Record, processor
from backtrail.parameters.base import read, section, validate
from backtrail.parameters.net import UNetParameters
from backtrail.parameters.runtime import Runtime
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.teacher import TrainedTeacher, is_imported
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.running.torch_stage import TorchStage, configure
from backtrail.training.scratch import Scratch

RATIO = 1.15  # the most that an update may take of its ideal count
TRICKS_NET = "wide"
TRAINS = Path(__file__).parents[1] / "suites/fashion-mnist-teacher" / PARAMS_FILE  # how a teacher is trained that a suite imports
WIDE = UNetParameters(image_channels=3, resolution=32, channels=[64, 128], n_classes=10)
TINY = UNetParameters(image_channels=1, resolution=4, stem=1, channels=[8], attention_levels=[0], n_classes=2)
Row = dict[str, Any]
T = TypeVar("T")


def setup(params: Path, net: str, device: torch.device) -> Setup:
    """The suite's parameters on one of the nets: the suite's own, a wide one (64 and 128 channels at 32x32), or a tiny one for tests."""
    values = read(params)
    teacher = section(TrainedTeacher, "teacher", TRAINS if is_imported(values) else params)
    score = {name: validate(ScoreDistillation, value, name, params) for name, value in values["score_distillation"].items()}
    trajectory = {name: validate(TrajectoryDistillation, value, name, params) for name, value in values["trajectory_distillation"].items()}
    nets = {"suite": (teacher.net, teacher.batch), "wide": (WIDE, 256 if device.type == "cuda" else 16), "tiny": (TINY, 2)}
    return Setup(teacher, score, trajectory, *nets[net], device=device)


def prepare(params: Path, device_name: str, threads: int) -> tuple[TorchStage, Clock]:
    """In the process that measures: threads, precision and determinism as a stage of the suite has them."""
    runtime, device = section(Runtime, "runtime", params).model_copy(update={"threads": threads}), torch.device(device_name)
    configure(runtime, device)
    return TorchStage(Record(), Scratch("nowhere"), device, runtime), Clock(device)


def measure(params: Path, net: str, device: str, threads: int, method: str, seconds: float) -> Row:
    """A row of the table: one method on one net."""
    stage, clock = prepare(params, device, threads)
    at_start, case = peak_mb(clock.device), CASES[method](replace(setup(params, net, clock.device), place=stage.place))
    with counting(case.nets) as count:
        case.update(0)
    case.update(1)
    peak, plain = peak_mb(clock.device), case.plain()
    plain(0)
    calls = {
        "update": lambda turn: case.update(turn + 2),
        "forwards": lambda turn: [case.forward() for _ in range(case.ideal(turn + 2))],
        "plain": lambda turn: plain(turn + 2),
    }
    spent = clock.interleaved(calls, seconds)
    turns = len(spent["update"])
    ideals = [case.ideal(turn + 2) for turn in range(turns)]
    forward_s = median(clock.deciding(t) / n for t, n in zip(spent["forwards"], ideals, strict=True))
    with parts(clock, case.nets, case.state) as booked:
        for step in range(turns + 2, turns + 5):
            case.update(step)
    update, ratio, worth = middle(spent["update"]), clock.ratio(spent, "update", "forwards"), sum(ideals) / turns
    return {
        "net": net, "method": method, "batch": case.batch, "turns": turns,
        "images_per_s": case.batch / clock.deciding(update), "update_ms": 1e3 * clock.deciding(update),
        "update_wall_ms": 1e3 * update.wall_s, "forward_ms": 1e3 * forward_s, "in_forwards": ratio * worth, "ideal": worth,
        "counted": count.cost, "counted_ideal": case.ideal(0),
        "ratio": ratio, "ratio_wall": Clock.wall_ratio(spent, "update", "forwards"), "within": ratio <= RATIO,
        "plain_ms": 1e3 * clock.deciding(middle(spent["plain"])), "speed_up": clock.ratio(spent, "plain", "update"),
        "peak_mb": peak, "start_mb": at_start, "shares": {part: s / sum(booked.values()) for part, s in booked.items()},
    }  # fmt: skip


def peak_mb(device: torch.device) -> float:
    """The most memory so far, MB: of this process on a CPU, of torch on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e6 if sys.platform == "darwin" else 1e3)


def try_trick(params: Path, net: str, device: str, threads: int, trick: str, seconds: float) -> Row:
    """A row of the second table: against the net in float32 as it is built, whatever the suite's runtime says."""
    _, clock = prepare(params, device, threads)
    return {"net": net} | TRICKS[trick](setup(params, net, clock.device), seconds, clock)


def memory_kept(params: Path, net: str, device: str, threads: int, turns: int = 3) -> Row:
    """The row of the second table about freed memory: it is a matter of the whole process, so each turn has two of its own."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(turns):
        for keep in (False, True) if turn % 2 else (True, False):
            times[keep].append(apart(teacher_s, params, net, device, threads, keep))
    gain = median(without / with_ for without, with_ in zip(times[False], times[True], strict=True))
    found = {"without_ms": 1e3 * median(times[False]), "with_ms": 1e3 * median(times[True]), "gain": gain}
    return {"net": net, "trick": "freed memory kept", "of": "the teacher's update"} | found


def teacher_s(params: Path, net: str, device: str, threads: int, keep: bool, updates: int = 8) -> float:
    """Seconds of an update of the teacher, with the memory of the update before at hand or not."""
    with nullcontext() if keep else mock.patch("backtrail.running.torch_stage.keep_freed_memory"):
        _, clock = prepare(params, device, threads)
    update = CASES["teacher"](setup(params, net, clock.device)).update
    update(0)
    update(1)
    return median(clock.deciding(clock.time(lambda step=step: update(step))) for step in range(2, 2 + updates))


def save_stall(params: Path, device: str, threads: int, millions: float) -> Row:
    """The row of the second table that is about saving."""
    _, clock = prepare(params, device, threads)
    return {"net": f"{millions:g} M"} | checkpoint(millions, 5, clock)


def fewer_forwards(rows: list[Row]) -> list[Row]:
    """What caching the trajectories and sharing the noise bring, in forwards: both sides were held against their own yardstick."""
    taken = {(row["net"], row["method"]): row["in_forwards"] for row in rows}
    pairs = {"cached trajectories": ("sfd", "sfd, cached"), "shared noise": ("diff-instruct", "shared noise")}
    return [
        {"net": net, "trick": trick, "of": f"{without}, in forwards", "gain": taken[net, without] / taken[net, with_]}
        for net in dict.fromkeys(row["net"] for row in rows)
        for trick, (without, with_) in pairs.items()
        if {(net, without), (net, with_)} <= set(taken)
    ]


def method_table(rows: list[Row]) -> str:
    """The methods' rows as Markdown."""
    head = ["net", "method", "images/s", "ms/update", "MB", "update / F", "ideal", "ratio", f"<= {RATIO}", "plain / ours", "shares"]
    lines = [
        [
            row["net"], row["method"], f"{row['images_per_s']:.1f}", f"{row['update_ms']:.1f}", f"{row['peak_mb']:.0f}",
            f"{row['in_forwards']:.2f}", f"{row['ideal']:g}", f"{row['ratio']:.2f}", "yes" if row["within"] else "no",
            f"{row['speed_up']:.2f}", ", ".join(f"{part} {share:.0%}" for part, share in row["shares"].items()),
        ]
        for row in rows
    ]  # fmt: skip
    return markdown(head, lines)


def trick_table(rows: list[Row]) -> str:
    """The tricks' rows as Markdown."""
    head = ["trick", "net", "of", "without, ms", "with, ms", "gain", "wanted", "note"]
    lines = []
    for row in rows:
        verdict = {True: ": yes", False: ": no"}.get(row.get("verdict"), "")
        times = [f"{row[key]:.1f}" if key in row else "" for key in ("without_ms", "with_ms")]
        gain = f"{row['gain']:.2f}" if "gain" in row else ""
        lines.append([row["trick"], row["net"], row["of"], *times, gain, row.get("wanted", "") + verdict, row.get("note", "")])
    return markdown(head, lines)


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where and how it was measured."""
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else processor()
    return {
        "device": arguments.device, "device_name": name, "torch": torch.__version__, "python": platform.python_version(),
        "threads": arguments.threads, "seconds": arguments.seconds, "params": read(arguments.params),
        "decided_by": "wall" if arguments.device == "cuda" else "cpu",
    }  # fmt: skip


def options(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default=Path(PARAMS_FILE), help="the suite's parameters")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto is a GPU where there is one")
    parser.add_argument("--nets", nargs="+", choices=["suite", "wide", "tiny"], default=["suite", "wide"])
    parser.add_argument("--methods", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seconds", type=float, default=6.0, help="for each method on each net, and each trick; three turns at least")
    parser.add_argument("--threads", type=int, help="CPU threads; by default the suite's")
    parser.add_argument("--compile", action="store_true", help="try torch.compile too: minutes on a CPU")
    parser.add_argument("--checkpoint-millions", type=float, default=50.0, help="weights of the net that is saved, in millions")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmark"), help="folder for methods.csv, tricks.csv, benchmark.json")
    found = parser.parse_args(words)
    found.threads = found.threads or section(Runtime, "runtime", found.params).threads
    return found


def main(words: list[str] | None = None) -> None:
    """Measure, print both tables, write them."""
    arguments = options(words)
    if arguments.device == "auto":
        arguments.device = "cuda" if apart(torch.cuda.is_available) else "cpu"
    where = (arguments.device, arguments.threads)
    rows = []
    for net in arguments.nets:
        for method in arguments.methods:
            rows.append(apart(measure, arguments.params, net, *where, method, arguments.seconds))
            print(f"{net}: {method}", file=sys.stderr)
    tricks = fewer_forwards(rows)
    net = TRICKS_NET if TRICKS_NET in arguments.nets else arguments.nets[-1]
    for trick in [name for name in TRICKS if name != "torch.compile" or arguments.compile]:
        tricks.append(apart(try_trick, arguments.params, net, *where, trick, arguments.seconds))
        print(trick, file=sys.stderr)
    if arguments.device == "cpu":
        tricks.append(memory_kept(arguments.params, net, *where))
    tricks.append(apart(save_stall, arguments.params, *where, arguments.checkpoint_millions))
    found = apart(facts, arguments)
    print(f"{found['device_name']}, torch {found['torch']}, {found['threads']} thread(s)\n")
    print(method_table(rows), trick_table(tricks), sep="\n\n")
    write(arguments.out, rows, tricks, found)


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """Call in a process of its own, forked from this one, which has loaded torch and computed nothing, and never wakes a GPU."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(function(*arguments)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__}{arguments[1:]} ended without a result (see above)") from None
    finally:
        process.join()


def write(out: Path, rows: list[Row], tricks: list[Row], found: dict[str, Any]) -> None:
    """The tables as CSV, and everything as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    for name, table in (("methods", rows), ("tricks", tricks)):
        flat = [row | {f"share: {part}": share for part, share in row.get("shares", {}).items()} for row in table]
        for row in flat:
            row.pop("shares", None)
        with open(out / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in flat for key in row)))
            writer.writeheader()
            writer.writerows(flat)
    save_json(out / "benchmark.json", {**found, "methods": rows, "tricks": tricks})


if __name__ == "__main__":
    main()
