"""The ledger of a suite: `dvc.lock` (what ran, by hash) and the stages' records (how, where, when, with which code).

Both are read as plain files, so that they can be questioned where neither DVC nor the data are there.
"""

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from backtrail.artifacts import load_yaml
from backtrail.errors import UserError
from backtrail.layout import CODE_FILE, GATHERED, LOCK_FILE, PARAMS_FILE, record
from backtrail.ledger.gathered import read_gathered
from backtrail.parameters.base import read

# Parameters that name what the user got by hand.
BY_HAND = ("data.local", "teacher.local", "metrics.inception.local", "text.local", "latent.local")
SMALL = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?e[-+][0-9]+")  # how DVC writes a small number, which YAML 1.1 reads as a text
COMMAND = re.compile(r"python (\S+) ([a-z][a-z0-9-]*)")


@dataclass(frozen=True)
class Entry:
    """What the lock says of a file or folder (md5 with `.dir`)."""

    path: str
    md5: str
    size_bytes: int


@dataclass(frozen=True)
class Stage:
    """One stage as it was run last: command line, dependencies, parameters of params.yaml by dotted key, outputs.

    code: the digest of its command's code under which it ran, empty where the lock names none.
    """

    name: str
    cmd: str
    deps: dict[str, Entry]
    params: dict[str, Any]
    outs: dict[str, Entry]
    code: str = ""

    @property
    def folder(self) -> str:
        """The folder of the code that it ran, from the suite; empty if its command line is none of this package's."""
        return found[1] if (found := COMMAND.fullmatch(self.cmd)) else ""

    @property
    def command(self) -> str:
        """The command of the package that it ran; empty if its command line is none of this package's."""
        return found[2] if (found := COMMAND.fullmatch(self.cmd)) else ""

    @property
    def record(self) -> str:
        """Where its record lies."""
        return record(self.name)

    @property
    def makes_code(self) -> bool:
        """Whether it is the stage that digests the code: it reads source files."""
        return CODE_FILE in self.outs

    @property
    def keeps_books(self) -> bool:
        """Whether it digests the code or gathers the records: it leaves no record, and no number rests on it."""
        return self.makes_code or GATHERED in self.outs

    @property
    def products(self) -> list[str]:
        """What it made, without the record."""
        return [path for path in self.outs if path != self.record]


@dataclass
class Ledger:
    """All stages of a suite that have run, with their records (None where one is absent or unreadable).

    gathered: the bytes of records that do not lie here themselves and that the file which git keeps has, by path.
    """

    folder: Path
    stages: dict[str, Stage]
    records: dict[str, dict[str, Any] | None]
    params: dict[str, Any]
    gathered: dict[str, bytes] = field(default_factory=dict)
    _closures: dict[str, frozenset[str]] = field(default_factory=dict)

    @functools.cached_property
    def code(self) -> str:
        """The folder of the code, from the suite: the one that the command lines name."""
        return next((stage.folder for stage in self.stages.values() if stage.folder), "src/backtrail")

    def is_code(self, path: str) -> bool:
        return path == self.code or path.startswith(self.code + "/")

    @functools.cached_property
    def makers(self) -> dict[str, Stage]:
        """The stage that made each output."""
        return {path: stage for stage in self.stages.values() for path in stage.outs}

    def maker(self, path: str) -> Stage | None:
        """The stage that made a file: it, or a folder above it, is an output."""
        parts = path.split("/")
        return next((self.makers[above] for n in range(len(parts), 0, -1) if (above := "/".join(parts[:n])) in self.makers), None)

    @functools.cached_property
    def by_hand(self) -> set[str]:
        """The folders and files for what the user got by hand: inputs that no stage makes."""
        return {path for key in BY_HAND if isinstance(path := at_key(self.params, key), str)}

    def below(self, path: str) -> list[str]:
        """The outputs at or below a path, or the output that it lies in."""
        found = [out for out in self.makers if out == path or out.startswith(path + "/")]
        parts = path.split("/")
        return found or [above for n in range(len(parts), 0, -1) if (above := "/".join(parts[:n])) in self.makers]

    def inputs(self, stage: Stage) -> list[str]:
        """What a stage read, without its code: outputs of other stages (folders taken apart) and files from outside."""
        found = (out for dep in stage.deps if not self.is_code(dep) for out in (self.below(dep) or [dep]))
        return list(dict.fromkeys(found))

    def closure(self, path: str) -> frozenset[str]:
        """Everything that a file rests on: files, and stages as `stage:NAME`; itself too."""
        if path not in self._closures:
            stage = self.maker(path)
            rests = {path}
            if stage is not None:
                self._closures[path] = frozenset()  # a ledger with a circle in it must not hang
                rests |= {f"stage:{stage.name}", stage.record, *self.below(path)}
                rests = rests.union(*(self.closure(source) for source in self.inputs(stage)))
            self._closures[path] = frozenset(rests)
        return self._closures[path]

    def in_order(self) -> Iterator[Stage]:
        """The stages, each after those whose outputs it read."""
        done: set[str] = set()

        def visit(stage: Stage) -> Iterator[Stage]:
            if stage.name in done:
                return
            done.add(stage.name)
            for path in self.inputs(stage):
                if (above := self.maker(path)) is not None:
                    yield from visit(above)
            yield stage

        for stage in self.stages.values():
            yield from visit(stage)


def open_ledger(folder: str | Path = ".") -> Ledger:
    """Read the ledger of the suite in `folder`. Raises UserError if there is none or if it cannot be read."""
    folder = Path(folder)
    try:
        text = (folder / LOCK_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{folder / LOCK_FILE} is missing: nothing has been run here; `dvc repro` writes it") from None
    stages = parse_lock(text, str(folder / LOCK_FILE))
    gathered = {path: of for path, of in read_gathered(folder).items() if not (folder / path).exists()}
    records = {name: _record(gathered.get(stage.record) or _bytes(folder / stage.record)) for name, stage in stages.items()}
    return Ledger(folder, stages, records, read(folder / PARAMS_FILE), gathered)


def parse_lock(text: str, name: str = LOCK_FILE) -> dict[str, Stage]:
    """The stages of a lock file. Raises UserError if it is none."""
    try:
        found = load_yaml(text)["stages"]
        return {key: _stage(key, content) for key, content in found.items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name} is no lock file of DVC ({reason}): restore it with `git checkout -- {LOCK_FILE}`") from None


def _stage(name: str, content: dict[str, Any]) -> Stage:
    def entries(key: str) -> dict[str, Entry]:
        return {of["path"]: Entry(of["path"], str(of.get("md5", "")), int(of.get("size", 0))) for of in content.get(key, [])}

    params, code = {}, ""
    for file, values in (content.get("params") or {}).items():
        if Path(file).name == CODE_FILE:
            code = " ".join(map(str, values.values()))
        else:
            params |= {key: _as_written(value) for key, value in values.items()}
    return Stage(name, content["cmd"], entries("deps"), params, entries("outs"), code)


def _as_written(value: Any) -> Any:
    """A parameter as DVC wrote it: by YAML 1.2, where 1e-06 is a number. A text of that form is none that params.yaml may have."""
    if isinstance(value, dict):
        return {key: _as_written(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_as_written(of) for of in value]
    return float(value) if isinstance(value, str) and SMALL.fullmatch(value) else value


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _record(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def at_key(values: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none, as DVC has it."""
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return None
        values = values[part]
    return values
