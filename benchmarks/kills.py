"""Kill each kind of training at random moments and hold its result against that of a run that nothing touched.

    python benchmarks/kills.py --kills 50

What runs is the stage's own command on a suite of tiny nets. This process loads torch once and forks for each attempt, so a kill costs
milliseconds; the last attempt is a process of its own, `python -m backtrail ...`, with other settings of OpenMP in its environment.
BACKTRAIL_SAVE_EVERY_S=0 makes it save after every step. Beside kills at random moments (start, steps, and the writing of results) there
are kills while a state is being written, states that are torn afterwards, signals, and slices of bounded time.
"""

import argparse
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import torch

import backtrail.cli as command_line
from backtrail.artifacts import file_digest, save_json
from backtrail.laid_down import lay_down
from backtrail.ledger.fingerprints import closure_files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from pipeline.conftest import tiny, write_images  # noqa: E402 (the suite that the tests of the pipeline run)
from unit.refusals import as_yaml, self_contained  # noqa: E402

RETRY = 75  # the exit code of a stage that was told to stop and has saved
LONG = {"teacher": 300, "score": 150, "rounds": 80}  # steps, so that there is something to kill


@dataclass(frozen=True)
class Stage:
    """A kind of training: the command's arguments, what it writes, and how many commands of PREPARATION come before it."""

    arguments: str
    outputs: list[str]
    needs: int


PREPARATION = [
    "fetch", "dataset", "teacher", "classifier", "reference --stage reference@classifier", "path --stage path@disback-0",
    "trajectories --stage trajectories@trajectory", "trajectories --stage trajectories@sfd-v",
]  # fmt: skip
STAGES = {
    "teacher": Stage("teacher", ["results/teacher"], 2),
    "recording": Stage("path --stage path@disback-0", ["results/paths"], 3),
    "score distillation": Stage("score-distillation --stage score-distillation@disback-0", ["results/students", "results/curves"], 6),
    "Algorithm 1": Stage("trajectory-distillation --stage trajectory-distillation@trajectory-0", ["results/students", "results/curves"], 7),
    "SFD-v": Stage("trajectory-distillation --stage trajectory-distillation@sfd-v-0", ["results/students", "results/curves"], 8),
}


@dataclass
class Tally:
    """What was done to one stage."""

    stage: str
    kills: int = 0
    during_save: int = 0
    torn: int = 0
    torn_reported: int = 0
    signals: int = 0
    slices: int = 0
    resumed_from: list[int] = field(default_factory=list)
    runs: int = 0
    equal: int = 0
    differing: list[str] = field(default_factory=list)


class Attempt:
    """One forked run of a command in the suite's folder; what it says goes to a file."""

    def __init__(self, folder: Path, arguments: str, **environment: str):
        self.log, self.kind = folder / "attempt.log", "forked"
        self.code: int | None = None
        self.log.write_text(
            "", encoding="utf-8"
        )  # here: an attempt that is killed at once has said nothing, and not what the one before said
        self.pid = os.fork()
        if self.pid == 0:
            _become(folder, arguments, self.log, environment)

    @classmethod
    def of(cls, folder: Path, code: int) -> "Attempt":
        """One that has ended already."""
        ended = cls.__new__(cls)
        ended.log, ended.kind, ended.code = folder / "attempt.log", "a process of its own", code
        return ended

    def running(self) -> bool:
        """Whether it still runs; sets `code` when it has ended (negative: the signal that ended it)."""
        if self.code is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.code = os.waitstatus_to_exitcode(ended[1])
        return self.code is None

    def wait(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait until it has ended (False) or `until` holds (True)."""
        while self.running():
            if until():
                return True
            time.sleep(0.0005)
        return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        os.kill(self.pid, number)
        self.wait()

    def saves(self, folder: Path) -> bool:
        """Whether it is in the middle of writing a state, or was when it ended; what others have left half written does not count."""
        return bool(states(folder, f".step-*.{self.pid}.tmp"))

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


def _become(folder: Path, arguments: str, log: Path, environment: dict[str, str]) -> None:
    """In the fork: the command line as `python -m backtrail` runs it, then the end of the process."""
    code = 1
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.chdir(folder)
        os.environ.update(environment)
        sys.argv = ["backtrail", *arguments.split()]
        logging.getLogger().handlers.clear()
        command_line.main()
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    finally:
        sys.stderr.flush()
        os._exit(code)


def prepare(folder: Path, stages: list[str]) -> None:
    """The tiny suite with trainings long enough to be killed, and all that these read."""
    p = tiny(self_contained())
    p["teacher"]["steps"] = LONG["teacher"]
    p["score_distillation"]["disback"] |= {"updates": LONG["score"], "evaluate_every": 25}
    p["score_distillation"]["disback"]["recording"] |= {"steps": LONG["score"], "candidates": 5}
    for method in ("trajectory", "sfd-v"):
        p["trajectory_distillation"][method] |= {"rounds": LONG["rounds"], "pool": 20, "evaluate_every": 20}
    (folder / "params.yaml").write_text(as_yaml(p), encoding="utf-8")
    lay_down(folder)
    write_images(folder / "images")
    for arguments in PREPARATION[: max(STAGES[name].needs for name in stages)]:
        finish(Attempt(folder, arguments))


def finish(attempt: Attempt) -> None:
    """Wait for an attempt that has to end well."""
    attempt.wait()
    if attempt.code != 0:
        raise SystemExit(f"a run that nobody touched ended with {attempt.code}:\n{attempt.said()}")


def contents(folder: Path, stage: Stage) -> dict[str, str]:
    """sha256 of every file that the stage has written; its record, which holds times, is none of them."""
    files = [path for out in stage.outputs for path in sorted((folder / out).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): file_digest(path) for path in files}


def states(folder: Path, pattern: str = "step-*.safetensors") -> list[Path]:
    return sorted((folder / ".scratch").glob(f"*/{pattern}"))


def clear(folder: Path, stage: Stage) -> None:
    """As before the stage's first run."""
    for path in (folder / ".scratch", *(folder / out for out in stage.outputs)):
        shutil.rmtree(path, ignore_errors=True)


def reached(folder: Path) -> int:
    """The newest step that is on disk; -1 if there is none."""
    return max((int(path.stem.removeprefix("step-")) for path in states(folder)), default=-1)


def tear(path: Path, draw: random.Random) -> None:
    """Cut a state short, or flip a bit of it."""
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    if draw.random() < 0.5:
        content = content[:place]
    else:
        content[place] ^= 1
    path.write_bytes(content)


class Torment:
    """One stage, its untouched result, and what is done to its runs."""

    def __init__(self, folder: Path, name: str, draw: random.Random):
        self.folder, self.stage, self.draw, self.tally = folder, STAGES[name], draw, Tally(name)
        self.finished, self.torn = True, False
        began = first_save = time.perf_counter()
        untouched = self.start()
        if untouched.wait(until=lambda: bool(states(folder))):
            first_save = time.perf_counter()
        finish(untouched)
        self.starts_s, self.steps_s = first_save - began, time.perf_counter() - first_save
        self.finished, self.expected = True, contents(folder, self.stage)

    def start(self, **environment: str) -> Attempt:
        """Go on, or begin anew where the attempt before has come to the end."""
        if self.finished:
            clear(self.folder, self.stage)
            self.finished = False
        return Attempt(self.folder, self.stage.arguments, BACKTRAIL_SAVE_EVERY_S="0", **environment)

    def ended(self, attempt: Attempt) -> None:
        """Note where it had resumed; compare its result if it came to one."""
        said, tally = attempt.said(), self.tally
        if found := re.search(r"^resumed from step (\d+)$", said, re.MULTILINE):
            tally.resumed_from.append(int(found[1]))
            if self.torn:
                tally.torn_reported += "resume state passed over" in said
                self.torn = False
        if attempt.code == 0:
            tally.runs += 1
            found = contents(self.folder, self.stage)
            differing = [path for path in sorted({*found, *self.expected}) if found.get(path) != self.expected.get(path)]
            tally.equal += not differing and not states(self.folder)
            tally.differing += [f"{path} ({attempt.kind})" for path in differing]
            self.finished, self.torn = True, False
        elif attempt.code not in (RETRY, -signal.SIGKILL):
            raise SystemExit(f"{tally.stage} ended with {attempt.code}:\n{said}")

    def kill(self, times: int) -> None:
        """At random moments; every fourth while a state is being written. After every fifth, or the next that leaves two states, the newest
        is torn.

        A kill comes on average after a share of the steps such that one run bears most of them; a run that ends before its kill is compared
        and followed by another.
        """
        reach, newest = self.starts_s + 2 * self.steps_s / times, -1
        while self.tally.kills < times:
            attempt, end = self.start(), time.perf_counter() + self.draw.uniform(0, reach)
            if self.tally.kills % 4 == 3:
                alive = attempt.wait(until=lambda attempt=attempt: attempt.saves(self.folder))
            else:
                alive = attempt.wait(until=lambda end=end: time.perf_counter() >= end)
            if alive:
                attempt.kill()
            self.ended(attempt)
            if attempt.code == 0:
                newest = -1
                continue
            self.tally.kills += 1
            self.tally.during_save += attempt.saves(self.folder)
            # Where nothing was gained the machine is slower than it was in the untouched run.
            reach, newest = reach * (1.2 if reached(self.folder) == newest else 1.0), reached(self.folder)
            if self.tally.torn < self.tally.kills // 5 and len(states(self.folder)) == 2 and not self.torn:
                tear(states(self.folder)[-1], self.draw)
                self.torn, self.tally.torn = True, self.tally.torn + 1

    def stop(self) -> None:
        """By each of the signals, once it has made a step: it has to save and say that it can be taken up again."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            code = None
            while code != RETRY:
                newest, attempt = reached(self.folder), self.start()
                if attempt.wait(until=lambda newest=newest: reached(self.folder) > newest):
                    attempt.kill(number)
                self.ended(attempt)
                code = attempt.code
            self.tally.signals += 1

    def finish_as_process(self) -> None:
        """`python -m backtrail`, told of more threads by its environment; the suite's `runtime.threads` is what counts."""
        words = [sys.executable, "-m", "backtrail", *self.stage.arguments.split()]
        with open(self.folder / "attempt.log", "w", encoding="utf-8") as log:
            done = subprocess.run(words, cwd=self.folder, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "2"}, check=False)
        self.ended(Attempt.of(self.folder, done.returncode))

    def slice(self) -> None:
        """A run in slices of a quarter of its time."""
        runs = self.tally.runs
        while self.tally.runs == runs:
            attempt = self.start(BACKTRAIL_SLICE_S=f"{self.steps_s / 4:.3f}")
            attempt.wait()
            self.ended(attempt)
            self.tally.slices += 1


def torment(folder: Path, name: str, kills: int, draw: random.Random) -> Tally:
    """All of it for one stage."""
    it = Torment(folder, name, draw)
    it.kill(kills)
    it.stop()
    it.finish_as_process()
    it.slice()
    return it.tally


def table(tallies: list[Tally]) -> str:
    """Markdown."""
    head = ["stage", "kills", "while saving", "torn states (reported)", "signals", "slices", "resumed from steps", "runs compared", "equal"]
    lines = []
    for t in tallies:
        steps = sorted(set(t.resumed_from))
        resumed = f"{len(t.resumed_from)} times, {len(steps)} steps from {steps[0]} to {steps[-1]}" if steps else "never"
        torn = f"{t.torn} ({t.torn_reported})"
        lines.append([t.stage, t.kills, t.during_save, torn, t.signals, t.slices, resumed, t.runs, "yes" if t.equal == t.runs else "NO"])
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [head, ["---"] * len(head), *lines])


def main() -> None:
    """Torment the stages, print the table, write it; the exit code says whether every result was the untouched one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of each stage")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="file for the tallies, JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    closure_files("teacher")  # who imports whom is read once, here
    for command in ("teacher", "path", "score-distillation", "trajectory-distillation"):
        command_line.backtrail.get_command(click.Context(command_line.backtrail), command)
    with tempfile.TemporaryDirectory(prefix="backtrail-kills-") as name:
        folder, tallies = Path(name), []
        prepare(folder, arguments.stages)
        for stage in arguments.stages:
            tallies.append(torment(folder, stage, arguments.kills, random.Random(f"{arguments.seed}/{stage}")))
            print(table(tallies[-1:]).splitlines()[-1], file=sys.stderr)
    print(table(tallies), *(f"{t.stage}: {path} differs" for t in tallies for path in t.differing), sep="\n")
    if arguments.out:
        save_json(arguments.out, [asdict(tally) for tally in tallies])
    sys.exit(any(t.equal != t.runs or t.torn_reported != t.torn for t in tallies))


if __name__ == "__main__":
    main()
