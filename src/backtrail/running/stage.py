"""The frame around every stage: what it is by `dvc.yaml`, parameters checked as a whole, the code that `code.yaml` names, a record left.

An engine starts `backtrail COMMAND` and says in the environment which stage it is (DVC_STAGE); by hand it is `--stage NAME`. No text of
params.yaml ever stands in a command line, where a shell would read it.
"""

import importlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import click

from backtrail.artifacts import drop_temporaries
from backtrail.errors import Interrupted, UserError
from backtrail.layout import FINISHED, LOCK_FILE, RECORDS
from backtrail.ledger.fingerprints import check_code_file, command_digest
from backtrail.ledger.record import Record, digests, recipe_key, recorded
from backtrail.parameters.base import Section, section
from backtrail.pipeline import Declared, declared

logger = logging.getLogger(__name__)
SCRATCH = Path(".scratch")
S = TypeVar("S", bound=Section)


@dataclass
class Stage:
    """What a stage's function is handed: its declaration and the record that it adds to."""

    declared: Declared
    record: Record = field(default_factory=Record)

    @property
    def name(self) -> str:
        """DVC's name of the stage."""
        return self.declared.name

    @property
    def method(self) -> str:
        """The method of the matrix."""
        return self.declared.item["method"]

    @property
    def seed(self) -> int:
        """The training seed of the matrix."""
        return self.declared.item["seed"]

    @property
    def of_method(self) -> tuple[str, int]:
        """Method and seed."""
        return self.method, self.seed

    def section(self, model: type[S], key: str) -> S:
        """A section of params.yaml, or of a method by its own key; a stage reads what dvc.yaml declares and nothing else."""
        if not any(f"{key}.".startswith(f"{known}.") for known in self.declared.params):
            raise LookupError(f"{self.name} reads {key} of params.yaml, which dvc.yaml does not declare")
        return section(model, key)

    def part(self, model: type[S], whole: type[Section], key: str) -> S:
        """The fields that a model has of the section at `key`, a `whole`: dvc.yaml declares each by itself, and none of the others."""
        return model(**{name: self.value(whole, f"{key}.{name}") for name in model.model_fields})

    def value(self, model: type[Section], key: str) -> Any:
        """One value of a section, its default where the file has none: `stage.value(Metrics, "metrics.n_curve")`."""
        head, _, last = key.rpartition(".")
        if key not in self.declared.params and head not in self.declared.params:
            raise LookupError(f"{self.name} reads {key} of params.yaml, which dvc.yaml does not declare")
        return getattr(section(model, head), last)

    @property
    def inputs(self) -> list[str]:
        """What the stage reads."""
        return list(self.declared.deps)

    @cached_property
    def input_digests(self) -> dict[str, str]:
        """sha256 of what it reads, taken once, before it starts."""
        return digests(self.inputs)

    @property
    def outputs(self) -> list[str]:
        """What it makes, without its record."""
        return [path for path in self.declared.outs if not path.startswith(f"{RECORDS}/")]

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """What it depends on in params.yaml, by dotted key, with defaults filled in."""
        suite = check_suite()
        return {key: _plain(_at(suite, key)) for key in self.declared.params}

    @property
    def scratch_folder(self) -> Path:
        """Where it keeps its resume state: .scratch/STAGE-KEY, the key being a digest of parameters, inputs and code."""
        code = {self.declared.command: command_digest(self.declared.command)}
        return SCRATCH / f"{self.name}-{recipe_key(self.name, self.parameters, self.input_digests, code)}"


def stage(function: Callable[[Stage], None]) -> click.Command:
    """A stage that needs no torch, as a command."""

    def run(name: str | None) -> None:
        with recorded_stage(declaration(command_name(function), name)) as handed:
            function(handed)

    return as_command(function, run)


def as_command(function: Callable[..., None], run: Callable[[str | None], None]) -> click.Command:
    """The command of a stage's function, with the one option that each has."""
    option = click.Option(["--stage", "stage"], help="DVC's name of the stage; by default the one that the engine says (DVC_STAGE).")

    def callback(stage: str | None) -> None:
        with heeding_signals():
            run(stage)

    return click.Command(command_name(function), params=[option], callback=callback, help=function.__doc__)


@contextmanager
def heeding_signals() -> Iterator[None]:
    """SIGTERM and SIGUSR1 end a stage at once, as Interrupted; a training loop, which has a state to save, takes them over.

    A job's shell and DVC ignore both, so that they end in order, and a stage would inherit that.
    """

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name} before it was done; the next run starts it again")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command_name(function: Callable[..., None]) -> str:
    """The command that a module in `stages/` is."""
    return function.__module__.rpartition(".")[2].replace("_", "-")


def declaration(command: str, name: str | None = None) -> Declared:
    """What dvc.yaml says of the stage to run. Raises UserError if it is none of this command's."""
    name = name or os.environ.get("DVC_STAGE", command).rpartition(":")[2]
    found = declared(name)
    if found.command != command:
        raise UserError(f"the stage {name} is run by `backtrail {found.command}`, not by `backtrail {command}`")
    return found


@contextmanager
def recorded_stage(found: Declared) -> Iterator[Stage]:
    """Check all of params.yaml and the code, run the body, leave a record, say how long it took."""
    handed, started = Stage(found), time.perf_counter()
    check_code_file(found.command)
    drop_temporaries(found.outs)
    drop_committed()
    with recorded(handed.name, found.command, handed.parameters, handed.input_digests, handed.outputs, seeds(found)) as record:
        handed.record = record
        yield handed
        # The engine notes the code that code.yaml names at the end: it has to be the code that ran.
        check_code_file(found.command)
    logger.info("%s: done in %.1f s", handed.name, time.perf_counter() - started)


def drop_committed() -> None:
    """Drop the resume states of stages whose results DVC has taken over: its lock names the records that they left."""
    notes = list(SCRATCH.glob(f"*/{FINISHED}"))
    lock = Path(LOCK_FILE).read_text(encoding="utf-8", errors="replace") if notes and Path(LOCK_FILE).is_file() else ""
    for note in notes:
        if note.read_text(encoding="utf-8") in lock:
            shutil.rmtree(note.parent, ignore_errors=True)


def seeds(found: Declared) -> list[int]:
    """The training seeds of a stage."""
    return [found.item["seed"]] if "seed" in found.item else []


def check_suite() -> Any:
    """The suite's parameters; a params.yaml with an error anywhere is refused before any work starts.

    Loaded by name: checking another section decides whether this stage runs, never what it computes, so it is no part of its code.
    """
    return importlib.import_module("backtrail.parameters.suite").read_suite()


def _at(suite: Any, key: str) -> Any:
    """The value of a checked suite at a dotted key."""
    value = suite
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def _plain(value: Any) -> Any:
    """Parameters as JSON-able values."""
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(of) for key, of in value.items()}
    return [_plain(of) for of in value] if isinstance(value, list | tuple) else value
