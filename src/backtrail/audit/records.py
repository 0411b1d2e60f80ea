"""What a stage's record says, against bytes, dvc.lock, the code that lies here, the commit that it names, the clock and the environment."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from backtrail.artifacts import file_digest
from backtrail.audit.evidence import Evidence
from backtrail.audit.findings import BROKEN, STALE, UNBACKED, Finding
from backtrail.layout import CODE_FILE, LOCK_FILE
from backtrail.ledger.fingerprints import PACKAGE_FOLDER, command_digest, digest_of
from backtrail.ledger.ledger import Ledger, Stage
from backtrail.ledger.record import LOCAL_PATH, WITHHELD
from backtrail.ledger.repository import holds
from backtrail.ledger.schema import faults
from backtrail.nested import differences

CLOCK_SLACK_S = 5.0  # between two clocks of one machine, one of which is steered to the right time
FUTURE = timedelta(days=1)
REQUIREMENTS = "requirements.lock"
Record = dict[str, Any]


def record(of: Evidence, stage: Stage) -> Iterator[Finding]:
    """The record: is it there, of this stage, of these bytes, with these parameters, this code, and a clock that ran forward?"""
    subject, link, found = f"stage:{stage.name}", f"{stage.name} -> {stage.record}", of.ledger.records[stage.name]
    if stage.record not in stage.outs:
        message = f"{stage.name} has no record among its outputs in {LOCK_FILE}"
        yield Finding(UNBACKED, subject, link, message, f"dvc repro -f {stage.name}")
    if found is None:
        if stage.record not in of.bad:
            yield Finding(UNBACKED, subject, link, f"{stage.record} cannot be read", f"dvc repro -f {stage.name}")
    elif wrong := faults(found):
        yield Finding(UNBACKED, subject, link, f"{stage.record} does not fit the schema: {'; '.join(wrong[:3])}")
    elif found["stage"] != stage.name:
        yield Finding(BROKEN, subject, link, f"{stage.record} is the record of {found['stage']}, not of {stage.name}")
    elif found["command"] != stage.command:
        message = f"{stage.record} is of the command {found['command']!r}; {LOCK_FILE} has {stage.cmd!r}"
        yield Finding(BROKEN, subject, link, message)
    else:
        for check in (_outputs, _inputs, _parameters, _code, _clock, _commit):
            yield from check(of, stage, found)


def _outputs(of: Evidence, stage: Stage, said: Record) -> Iterator[Finding]:
    for path in stage.products:
        found, named = of.hashes.of(path), said["outputs"].get(path)
        if found is None or path in of.bad:
            continue
        link = f"{stage.record} -> {path}"
        if named is None:
            yield Finding(UNBACKED, path, link, f"{stage.record} does not name {path} among its outputs")
        elif named != found.sha256:
            message = f"{stage.record} says that {path} has sha256 {named}; found {found.sha256}: the record is of another run"
            yield Finding(BROKEN, path, link, message)


def _inputs(of: Evidence, stage: Stage, said: Record) -> Iterator[Finding]:
    for path, sha256 in said["inputs"].items():
        found, entry = of.hashes.of(path), stage.deps.get(path)
        if found is None:
            yield from _between_records(of, stage, path, sha256)
        if found is None or sha256 == found.sha256 or any(part in of.bad for part in of.ledger.below(path)):
            continue
        # Where the lock itself says that the stage read other bytes than those here, it is stale, and not forged.
        verdict = STALE if entry is not None and entry.md5 != found.md5 else BROKEN
        message = f"{stage.name} read {path} with sha256 {sha256}, by its record; now it is {found.sha256}"
        yield Finding(verdict, f"stage:{stage.name}", f"{path} -> {stage.name}", message)


def _between_records(of: Evidence, stage: Stage, path: str, sha256: str) -> Iterator[Finding]:
    """What a record says that was read, against what the record of the stage that made it says, where the bytes are not here."""
    maker, entry = of.ledger.makers.get(path), stage.deps.get(path)
    made = ((of.ledger.records[maker.name] or {}).get("outputs") or {}).get(path) if maker else None
    if maker and entry and made and made != sha256 and maker.outs[path].md5 == entry.md5:
        message = f"{stage.name} read {path} with sha256 {sha256}, by its record; by its own, {maker.name} made {made}"
        yield Finding(BROKEN, f"stage:{stage.name}", f"{maker.record} -> {stage.record}", message)


def _parameters(of: Evidence, stage: Stage, said: Record) -> Iterator[Finding]:
    """The record's parameters, in which defaults are filled in, against the lock's."""
    for key, value in stage.params.items():
        for place, locked, recorded in differences(value, said["parameters"].get(key)):
            if locked is not None and recorded not in (None, WITHHELD, LOCAL_PATH) and locked != recorded:
                name = ".".join((key, *place))
                message = f"{LOCK_FILE} has {name} = {locked!r}; {stage.record} says {recorded!r}"
                yield Finding(BROKEN, f"stage:{stage.name}", f"{LOCK_FILE} -> {stage.record}", message)


def _code(of: Evidence, stage: Stage, said: Record) -> Iterator[Finding]:
    """The code that ran, file by file, against the lock's digest of it and against the source files that lie here now."""
    subject = f"stage:{stage.name}"
    if not stage.code:
        yield Finding(UNBACKED, subject, f"{CODE_FILE} -> {stage.name}", f"{LOCK_FILE} names no code for {stage.name}", "dvc repro")
    elif digest_of(said["code"]) != stage.code:
        message = f"{stage.record} names other code than {LOCK_FILE}, whose digest of it is {stage.code}"
        yield Finding(BROKEN, subject, f"{LOCK_FILE} -> {stage.record}", message)
    elif changed := [name for name, was in said["code"].items() if of.code_now(name) != was]:
        names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        message = f"{names} changed since {stage.name} ran" if len(changed) > 1 else f"{names} has changed since {stage.name} ran"
        yield Finding(STALE, subject, f"{of.ledger.code}/{changed[0]} -> {stage.name}", message, f"dvc repro {stage.name}")
    elif (now := _digest_here(of.ledger, stage)) not in ("", stage.code):
        message = f"{stage.command} stands on more code than when {stage.name} ran: its digest was {stage.code}, and is {now}"
        yield Finding(STALE, subject, f"{CODE_FILE} -> {stage.name}", message, f"dvc repro {stage.name}")


def _digest_here(ledger: Ledger, stage: Stage) -> str:
    """The digest of a command's whole import closure; empty where the suite's code is not the package that runs."""
    return command_digest(stage.command) if (ledger.folder / ledger.code).resolve() == PACKAGE_FOLDER.resolve() else ""


def _clock(of: Evidence, stage: Stage, said: Record) -> Iterator[Finding]:
    subject, link = f"stage:{stage.name}", f"clock -> {stage.record}"
    try:
        started, ended = datetime.fromisoformat(said["started"]), datetime.fromisoformat(said["ended"])
        took = (ended - started).total_seconds()
        ahead = max(started, ended) > datetime.now(UTC) + FUTURE
    except (ValueError, TypeError):
        yield Finding(UNBACKED, subject, link, f"{stage.record}: started or ended is no time with its zone")
        return
    slack = CLOCK_SLACK_S + 0.01 * said["seconds"]
    if took < 0 or took < said["seconds"] - slack:  # a machine that slept counts fewer seconds than the clock
        times = f"started {said['started']}, ended {said['ended']}, and took {said['seconds']} s"
        yield Finding(UNBACKED, subject, link, f"{stage.record}: {times}: the clock was moved", f"dvc repro -f {stage.name}")
    elif ahead:
        yield Finding(UNBACKED, subject, link, f"{stage.record}: {said['ended']} has not come yet")


def _commit(of: Evidence, stage: Stage, said: Record) -> Iterator[Finding]:
    """The code that ran against the commit that the record names: git must hold it, and the code stand in it or in the present one."""
    subject, link, commit, folder = f"stage:{stage.name}", f"commit -> {stage.name}", said["commit"], of.ledger.folder
    if commit is None:
        yield Finding(UNBACKED, subject, link, f"{stage.record} names no commit: git told of none where the code ran")
        return
    if not holds(folder, commit):
        message = f"commit {commit[:12]!r} of {stage.record} is none that this repository holds"
        if why := of.git_is_silent:
            message = f"commit {commit[:12]!r} of {stage.record} cannot be looked up: {why}"
        yield Finding(UNBACKED, subject, link, message, "" if why else of.fetches_more, absent=True)
        return
    missing: list[str] = []
    for one in (commit, "HEAD"):
        tree = of.code_in(one)
        missing = [name for name, was in said["code"].items() if tree.get(name) != was]
        if not missing:
            return
    if of.fetches_more:
        message = f"{stage.name}: git left behind what {', '.join(missing[:3])} was in commit {commit[:12]} when this was cloned"
        yield Finding(UNBACKED, subject, link, message, of.fetches_more, absent=True)
        return
    state = "from a dirty tree" if said["dirty"] else "from a tree that git called clean"
    names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    message = f"{stage.name} ran {state}: {names} as it was stands neither in commit {commit[:12]} nor in the present one"
    yield Finding(UNBACKED if said["dirty"] else BROKEN, subject, link, message)


def other_environment(ledger: Ledger) -> Iterator[str]:
    """A sentence where stages ran in another environment than the one that the code's repository asks for now: no verdict hangs on it."""
    lock = (ledger.folder / ledger.code).resolve().parents[1] / REQUIREMENTS
    now = file_digest(lock) if lock.is_file() else None
    recorded = {name: record for name, record in ledger.records.items() if record and not faults(record)}
    found = {name: record for name, record in recorded.items() if record.get("environment_sha256") != now}
    if found:
        torch = sorted({str((record.get("packages") or {}).get("torch")) for record in found.values()})
        yield (
            f"other environment: {len(found)} of {len(recorded)} stages ran by another {REQUIREMENTS} than the one here "
            f"(torch {', '.join(torch)} then): {', '.join(list(found)[:4])}{' ...' if len(found) > 4 else ''}"
        )
