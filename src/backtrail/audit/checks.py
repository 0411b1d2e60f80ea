"""The hash audit: the bytes on disk against the ledger, and the ledger against itself, link by link.

Each function yields findings and trusts nothing that another has not read. Where one thing is wrong, its consequences are not reported as
findings of their own: they follow from what rests on what (`Ledger.closure`).
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from backtrail.audit.findings import BROKEN, STALE, UNBACKED, Finding
from backtrail.ledger.hashes import Digest, Hashes
from backtrail.ledger.ledger import YAML_LOADER, Entry, Ledger, Stage, at_key
from backtrail.ledger.record import LOCAL_PATH, WITHHELD
from backtrail.ledger.repository import cached, code_at, file_at
from backtrail.ledger.schema import faults
from backtrail.parameters.base import PARAMS_FILE

CLOCK_SLACK_S = 5.0  # between two clocks of one machine, one of which is steered to the right time
FUTURE = timedelta(days=1)
A_METHOD = re.compile(r"(score_distillation|trajectory_distillation|started_score_distillation\.methods|second_stage\.methods)\.[^.]+")
TEXT_BYTES = 1 << 22  # of longer files the lines that differ are not looked for


class HashAudit:
    """What a suite's files and ledger say of one another."""

    def __init__(self, ledger: Ledger, hashes: Hashes):
        self.ledger, self.hashes = ledger, hashes
        self.bad: set[str] = set()  # outputs that are not what their stage made
        self._committed: dict[str, dict[str, str] | None] = {}

    def findings(self) -> Iterator[Finding]:
        """All of them, each link once."""
        self.hashes.read({path for stage in self.ledger.stages.values() for path in [*stage.deps, *stage.outs]})
        for stage in self.ledger.stages.values():
            for entry in stage.outs.values():
                for finding in self.output(stage, entry):
                    self.bad.add(entry.path)
                    yield finding
        for stage in self.ledger.stages.values():
            yield from self.declared(stage)
            yield from self.record(stage)
            yield from self.inputs(stage)
            yield from self.code(stage)
            yield from self.parameters(stage)
        yield from self.strays()

    def output(self, stage: Stage, entry: Entry) -> Iterator[Finding]:
        """The file against the lock of the stage that made it."""
        link, digest = f"{stage.name} -> {entry.path}", self.hashes.of(entry.path)
        if digest is None:
            message = f"{entry.path} ({entry.size_bytes:,} bytes) is not here"
            yield Finding(UNBACKED, entry.path, link, message, f"dvc pull {stage.name}", entry.size_bytes, absent=True)
        elif digest.md5 != entry.md5:
            message = f"{entry.path}: md5 {digest.md5}, dvc.lock has {entry.md5} ({digest.size_bytes:,} and {entry.size_bytes:,} bytes)"
            yield Finding(BROKEN, entry.path, link, message + self._where(entry, digest), f"dvc checkout {entry.path}")
        elif digest.size_bytes != entry.size_bytes:
            message = f"{entry.path}: {digest.size_bytes:,} bytes, dvc.lock has {entry.size_bytes:,}: the lock was edited"
            yield Finding(BROKEN, entry.path, link, message)

    def _where(self, entry: Entry, digest: Digest) -> str:
        """Which file of a folder, or which lines of a text, differ, where an intact copy of the old state is at hand."""
        if entry.md5.endswith(".dir"):
            names = self._differing_files(entry)
            return f"; differing: {', '.join(names)}" if names else ""
        if entry.size_bytes > TEXT_BYTES or digest.size_bytes > TEXT_BYTES:
            return ""
        old = cached(self.ledger.folder, entry.md5) or file_at(self.ledger.folder, "HEAD", entry.path)
        if old is None or _md5(old) != entry.md5:
            return ""
        try:
            before, now = old.decode().splitlines(), (self.ledger.folder / entry.path).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            return ""
        lines = [n for n, (a, b) in enumerate(zip(before, now, strict=False), start=1) if a != b]
        lines += range(min(len(before), len(now)) + 1, max(len(before), len(now)) + 1)
        return f"; differing in line {', '.join(map(str, lines[:5]))}{' ...' if len(lines) > 5 else ''}"

    def _differing_files(self, entry: Entry) -> list[str]:
        listing = cached(self.ledger.folder, entry.md5)
        if listing is None:
            return []
        expected = {f"{entry.path}/{item['relpath']}": item["md5"] for item in json.loads(listing)}
        found = {name: of.md5 for name in self.hashes.files(entry.path) if (of := self.hashes.of(name))}
        return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))

    def declared(self, stage: Stage) -> Iterator[Finding]:
        """The stage against the pipeline's declaration."""
        base = stage.name.split("@")[0]
        if base not in self._declared_stages:
            message = f"dvc.lock has a stage {stage.name}, and dvc.yaml declares none of that name"
            yield Finding(UNBACKED, f"stage:{stage.name}", f"dvc.yaml -> {stage.name}", message, "dvc repro")

    @functools.cached_property
    def _declared_stages(self) -> set[str]:
        path = self.ledger.folder / "dvc.yaml"
        return set((yaml.load(path.read_text(encoding="utf-8"), YAML_LOADER) or {}).get("stages", {})) if path.is_file() else set()

    def record(self, stage: Stage) -> Iterator[Finding]:
        """The record: is it there, of this stage, of these bytes, with these parameters, this code, and a clock that ran forward?"""
        subject, link, record = f"stage:{stage.name}", f"{stage.name} -> {stage.record}", self.ledger.records[stage.name]
        if stage.record not in stage.outs:
            message = f"{stage.name} has no record among its outputs in dvc.lock"
            yield Finding(UNBACKED, subject, link, message, f"dvc repro -f {stage.name}")
        if record is None:
            if stage.record not in self.bad:
                yield Finding(UNBACKED, subject, link, f"{stage.record} cannot be read", f"dvc repro -f {stage.name}")
            return
        if wrong := faults(record):
            yield Finding(UNBACKED, subject, link, f"{stage.record} does not fit the schema: {'; '.join(wrong[:3])}")
            return
        if record["stage"] != stage.name:
            yield Finding(BROKEN, subject, link, f"{stage.record} is the record of {record['stage']}, not of {stage.name}")
            return
        yield from self._record_files(stage, record)
        yield from self._record_parameters(stage, record)
        yield from self._clock(stage, record)
        yield from self._commit(stage, record)

    def _record_files(self, stage: Stage, record: dict[str, Any]) -> Iterator[Finding]:
        for path in stage.products:
            found, said = self.hashes.of(path), record["outputs"].get(path)
            if found is None or path in self.bad:
                continue
            link = f"{stage.record} -> {path}"
            if said is None:
                yield Finding(UNBACKED, path, link, f"{stage.record} does not name {path} among its outputs")
            elif said != found.sha256:
                message = f"{stage.record} says that {path} has sha256 {said}; found {found.sha256}: the record is of another run"
                yield Finding(BROKEN, path, link, message)
        for path, said in record["inputs"].items():
            found, parts = self.hashes.of(path), self.ledger.below(path)
            if found is None or any(part in self.bad for part in parts):
                continue
            if said != found.sha256:
                message = f"{stage.name} read {path} with sha256 {said}, by its record; now it is {found.sha256}"
                yield Finding(STALE if self._lock_moved(stage, path) else BROKEN, f"stage:{stage.name}", f"{path} -> {stage.name}", message)
        for file, said in record["code"].items():
            path = f"{self.ledger.code}/{file}"
            found = self.hashes.of(path)
            if found is not None and found.sha256 != said and not self._code_moved(stage, path, found):
                message = f"{stage.record} names other code than dvc.lock: {path} had sha256 {said}, and has {found.sha256}"
                yield Finding(BROKEN, f"stage:{stage.name}", f"{path} -> {stage.name}", message)

    def _lock_moved(self, stage: Stage, path: str) -> bool:
        """Whether the lock itself says that the stage read other bytes than those here: then it is stale, and not forged."""
        found, entry = self.hashes.of(path), stage.deps.get(path)
        return entry is not None and found is not None and entry.md5 != found.md5

    def _code_moved(self, stage: Stage, path: str, found: Digest) -> bool:
        """Whether the lock, too, has other bytes for a source file (or for a folder that it lies in)."""
        for dep, entry in stage.deps.items():
            if path == dep or path.startswith(dep + "/"):
                now = self.hashes.of(dep)
                return now is None or now.md5 != entry.md5
        return True

    def _record_parameters(self, stage: Stage, record: dict[str, Any]) -> Iterator[Finding]:
        for key, value in stage.params.items():
            name = "method" if A_METHOD.fullmatch(key) else key.split(".")[-1]
            for place, locked, said in _differences(value, record["parameters"].get(name), key):
                message = f"dvc.lock has {place} = {locked!r}; {stage.record} says {said!r}"
                yield Finding(BROKEN, f"stage:{stage.name}", f"dvc.lock -> {stage.record}", message)

    def _clock(self, stage: Stage, record: dict[str, Any]) -> Iterator[Finding]:
        subject, link = f"stage:{stage.name}", f"clock -> {stage.record}"
        try:
            started, ended = datetime.fromisoformat(record["started"]), datetime.fromisoformat(record["ended"])
            took = (ended - started).total_seconds()
            ahead = max(started, ended) > datetime.now(UTC) + FUTURE
        except (ValueError, TypeError):
            yield Finding(UNBACKED, subject, link, f"{stage.record}: started or ended is no time with its zone")
            return
        slack = CLOCK_SLACK_S + 0.01 * record["seconds"]
        if took < 0 or abs(took - record["seconds"]) > slack:
            times = f"started {record['started']}, ended {record['ended']}, and took {record['seconds']} s"
            message = f"{stage.record}: {times}: the clock was moved"
            yield Finding(UNBACKED, subject, link, message, f"dvc repro -f {stage.name}")
        elif ahead:
            yield Finding(UNBACKED, subject, link, f"{stage.record}: {record['ended']} has not come yet")

    def _commit(self, stage: Stage, record: dict[str, Any]) -> Iterator[Finding]:
        """The code that ran against the commit that the record names, or the present one: it must stand in one of them."""
        if record["commit"] is None:
            message = f"{stage.record}: the code lay in no git repository"
            yield Finding(UNBACKED, f"stage:{stage.name}", f"commit -> {stage.name}", message)
            return
        missing: list[str] = []
        for commit in (record["commit"], "HEAD"):
            tree = self._code_at(commit)
            if tree is None:
                continue
            missing = [name for name, sha256 in record["code"].items() if tree.get(name) != sha256]
            if not missing:
                return
        if missing:
            state = "from a dirty tree" if record["dirty"] else "from a tree that git called clean"
            names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            message = f"{stage.name} ran {state}: {names} as it was stands neither in commit {record['commit'][:12]} nor in the present one"
            yield Finding(UNBACKED if record["dirty"] else BROKEN, f"stage:{stage.name}", f"commit -> {stage.name}", message)
        else:
            message = f"commit {record['commit'][:12]} of {stage.record} is not in this repository"
            yield Finding(UNBACKED, f"stage:{stage.name}", f"commit -> {stage.name}", message, "git fetch --unshallow", absent=True)

    def _code_at(self, commit: str) -> dict[str, str] | None:
        """sha256 of the code's files in a commit; None if the commit is not here."""
        if commit not in self._committed:
            self._committed[commit] = code_at(self.ledger.folder, commit, self.ledger.code)
        return self._committed[commit]

    def inputs(self, stage: Stage) -> Iterator[Finding]:
        """What the stage read, by the lock, against what the stages above it made, by the lock and on disk."""
        for path, entry in stage.deps.items():
            if self.ledger.is_code(path):
                continue
            link, made = f"{path} -> {stage.name}", self.ledger.makers.get(path)
            if made is not None:
                if made.outs[path].md5 != entry.md5:
                    message = f"{stage.name} read {path} with md5 {entry.md5}; {made.name} has since made {made.outs[path].md5}"
                    yield Finding(STALE, f"stage:{stage.name}", link, message, f"dvc repro {stage.name}")
                continue
            parts = self.ledger.below(path)
            if any(part in self.bad for part in parts):
                continue  # the part's own finding says it, and not everything in this folder rests on it
            digest = self._folder(path, parts) if parts else self.hashes.of(path)
            if digest is None:
                yield Finding(UNBACKED, path, link, f"{path} is not here", size_bytes=entry.size_bytes, absent=True)
            elif digest.md5 != entry.md5:
                message = f"{stage.name} read other bytes of {path} (md5 {entry.md5}) than those here ({digest.md5})"
                yield Finding(STALE, f"stage:{stage.name}", link, message, f"dvc repro {stage.name}")

    def _folder(self, path: str, parts: list[str]) -> Digest | None:
        """Digest of a folder as the stages made it, without strange files in it."""
        if self.hashes.of(path) is None:
            return None
        return self.hashes.of_files(path, [name for part in parts for name in self.hashes.files(part)])

    def code(self, stage: Stage) -> Iterator[Finding]:
        """The stage's source files against those that it ran with."""
        for path, entry in stage.deps.items():
            digest = self.hashes.of(path) if self.ledger.is_code(path) else None
            if self.ledger.is_code(path) and (digest is None or digest.md5 != entry.md5):
                message = f"{path} has changed since {stage.name} ran"
                yield Finding(STALE, f"stage:{stage.name}", f"{path} -> {stage.name}", message, f"dvc repro {stage.name}")

    def parameters(self, stage: Stage) -> Iterator[Finding]:
        """The stage's parameters against params.yaml."""
        for key, value in stage.params.items():
            if (now := at_key(self.ledger.params, key)) != value:
                places = [place for place, *_ in _differences(value, now, key, strict=True)] or [key]
                message = f"{', '.join(places[:4])} in {PARAMS_FILE} has changed since {stage.name} ran"
                yield Finding(STALE, f"stage:{stage.name}", f"{PARAMS_FILE} -> {stage.name}", message, f"dvc repro {stage.name}")

    def strays(self) -> Iterator[Finding]:
        """Files where only stages write, and that no stage made."""
        tops = {path.split("/")[0] for path in self.ledger.makers}
        for name in sorted(name for top in tops for name in self.hashes.files(top)):
            hidden = any(part.startswith(".") for part in name.split("/"))
            if self.ledger.maker(name) is None and not hidden:
                yield Finding(UNBACKED, name, f"? -> {name}", f"{name}: no stage made it")


def _differences(value: Any, other: Any, key: str, strict: bool = False) -> Iterator[tuple[str, Any, Any]]:
    """Places at which two values differ. Unless strict, a part that one of them does not have, or that is withheld, is passed over."""
    if isinstance(value, dict) and isinstance(other, dict):
        for name in value.keys() | other.keys() if strict else value.keys() & other.keys():
            yield from _differences(value.get(name), other.get(name), f"{key}.{name}", strict)
    elif value != other and (strict or not (value is None or other is None or other in (WITHHELD, LOCAL_PATH))):
        yield key, value, other


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
