"""Where a run is: stages done of all, what runs, and the time left by what the stages took before.

In a terminal a line at the bottom that is drawn anew each second; in a log a line for each stage that ends. Snakemake tells of its jobs by
events of its logger; what stages took before stands in the suite's records.
"""

import atexit
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, TextIO

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

AROUND_S = 8.0  # Snakemake, DVC and Python around a stage; what a stage's record says is its own work
GATHERED, RECORDS = Path("results/ledger.json"), Path("results/records")
SHOWN = 3  # running stages that are named
CLEAR = "\r\x1b[K"


def follow(plan: Mapping[str, Any]) -> None:
    """Show from now on where this process's run is. Nothing is shown where Snakemake is to be quiet, or writes to no stream."""
    shown_by = next((handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler)), None)
    if shown_by is not None and not any(getattr(of, "quiet", None) for of in shown_by.filters):
        progress = Progress(plan, past_costs(Path.cwd()))
        Display(progress, shown_by).start()


def past_costs(folder: Path) -> dict[str, float]:
    """Seconds that each stage took when it ran last, by its record or the file of all records that git keeps; none where there is none."""
    found: dict[str, float] = {}
    for path in (folder / GATHERED, *(folder / RECORDS).glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            records = {name: of["own"] for name, of in content["records"].items()} if path.name == GATHERED.name else {path.stem: content}
            found |= {name: float(record["seconds"]) for name, record in records.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue  # a record that is missing or damaged tells no time, and is no reason not to run
    return found


class Progress:
    """What is known of a run: stages by name that are done, those of this run, and since when each that runs does (seconds)."""

    def __init__(self, plan: Mapping[str, Any], costs: Mapping[str, float], clock: Callable[[], float] = time.monotonic):
        self.parents = {stage["name"]: stage["parents"] for stage in plan["stages"]}
        self.names, self.costs, self.clock = set(self.parents), dict(costs), clock
        self.done = self.names - set(plan["stale"])
        self.asked: set[str] = set()
        self.live = False  # a dry run tells of its jobs too, and starts none
        self.finished: set[str] = set()
        self.failed: set[str] = set()
        self.spoilt: list[tuple[str, float]] = []  # what failed and after how long: it says how fast this run is, too
        self.running: dict[str, float] = {}
        self.by_job: dict[int, str] = {}
        self.started = clock()

    def note(self, record: logging.LogRecord) -> bool:
        """Take in an event of Snakemake's; returns whether a stage has ended."""
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            self.asked = self.names & set(getattr(record, "stats", {}))
            self.done -= self.asked
        elif event == LogEvent.JOB_STARTED:
            self.live = True
        elif not self.live:
            return False
        elif event == LogEvent.JOB_INFO and record.rule_name in self.names:
            self.by_job[record.jobid] = record.rule_name
            self.running[record.rule_name] = self.clock()
            self.failed.discard(record.rule_name)
        elif event in (LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR):
            name = self.by_job.get(getattr(record, "job_id", getattr(record, "jobid", None)), "")
            if (since := self.running.pop(name, None)) is not None:
                if event == LogEvent.JOB_FINISHED:
                    self.done.add(name)
                    self.finished.add(name)
                else:
                    self.failed.add(name)
                    self.spoilt.append((name, self.clock() - since))
                return True
        return False

    def left_s(self) -> float | None:
        """Seconds left, by past costs and by how fast this run has been beside them; None where nothing is known."""
        if not self.costs:
            return None
        now = self.clock()
        spent = sum(min(now - since, self.cost(name)) for name, since in self.running.items())
        behind = self._sum(self.finished) + spent + sum(min(seconds, self.cost(name)) for name, seconds in self.spoilt)
        ahead = self._sum(self.todo()) - spent
        return ahead * (now - self.started) / behind if self.finished and behind else ahead

    def todo(self) -> set[str]:
        """Stages that this run will still end: neither one that failed nor what stands on it, unless Snakemake tries it again."""
        lost = set(self.failed)
        while below := {name for name in self.asked - lost if lost.intersection(self.parents[name])}:
            lost |= below
        return self.asked - self.finished - lost

    def cost(self, name: str) -> float:
        """Seconds that a stage may take: as before, or as the others of its kind, or as the others."""
        kind = name.partition("@")[0]
        alike = [of for other, of in self.costs.items() if other.partition("@")[0] == kind] or list(self.costs.values())
        return self.costs.get(name, median(alike)) + AROUND_S

    def _sum(self, names: Iterable[str]) -> float:
        return sum(map(self.cost, names))

    def __str__(self) -> str:
        now, parts = self.clock(), [f"{len(self.done)} of {len(self.names)} stages done"]
        running = sorted(self.running, key=self.running.__getitem__)
        if running:
            named = ", ".join(f"{name} ({in_words(now - self.running[name])})" for name in running[:SHOWN])
            parts.append(f"running: {named}{f' and {len(running) - SHOWN} more' if len(running) > SHOWN else ''}")
        if self.todo() and (left := self.left_s()) is not None:
            parts.append(f"about {in_words(left)} left")
        return "; ".join(parts)


def in_words(seconds: float) -> str:
    """40 s, 12 min, 3.5 h."""
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


class Display(threading.Thread):
    """Draws it beside what Snakemake's handler writes, in turn with it: a line at the bottom, or lines between."""

    def __init__(self, progress: Progress, shown_by: "logging.StreamHandler[TextIO]", every_s: float = 1.0):
        super().__init__(daemon=True, name="progress")
        self.progress, self.shown_by, self.every_s = progress, shown_by, every_s
        self.stream = shown_by.stream
        self.is_terminal = self.stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.write_record, shown_by.emit = shown_by.emit, self.emit  # type: ignore[method-assign]

    def emit(self, record: logging.LogRecord) -> None:
        """Stands for the handler's own, which holds the handler's lock while it calls it."""
        ended = self.progress.note(record)
        self.put(CLEAR)
        self.write_record(record)
        if ended and not self.is_terminal:
            self.stream.write(f"{self.progress}\n")
            self.stream.flush()

    def run(self) -> None:
        """Draw the line at the bottom until the process ends."""
        if not self.is_terminal:
            return
        atexit.register(self.put, CLEAR)
        while True:
            time.sleep(self.every_s)
            if self.progress.live:
                with self.shown_by.lock:  # type: ignore[union-attr]
                    width = os.get_terminal_size(self.stream.fileno()).columns
                    self.put(CLEAR + str(self.progress)[: width - 1])

    def put(self, text: str) -> None:
        """Write to the terminal; nothing where there is none."""
        if self.is_terminal:
            self.stream.write(text)
            self.stream.flush()
