"""Published results: those of a commit or of another folder, and where they were made.

Records lie in DVC's cache and do not come with a clone, and the tables must be the same bytes on every machine: so whoever commits results
commits `published.json` beside them (`backtrail reproduced --publish`), which names the processor.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backtrail.artifacts import save_json
from backtrail.audit.runs import Run, open_run
from backtrail.errors import UserError
from backtrail.layout import METRICS, PARAMS_FILE, TABLES
from backtrail.ledger.history import history
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.numbers import Number, find
from backtrail.ledger.repository import file_at

FILE = "published.json"
RESULTS, CLAIMS = f"{TABLES}/results.csv", f"{TABLES}/claims.csv"


class NothingPublished(UserError):
    """There is nothing that a run could be held against, or nothing has run."""

    exit_code = 7


@dataclass(frozen=True)
class Origin:
    """Where results come from: commit (object name) and its day, empty where it is no commit; the processors and versions of torch."""

    name: str
    commit: str = ""
    day: str = ""
    processors: tuple[str, ...] = ()
    torch: tuple[str, ...] = ()

    def __str__(self) -> str:
        commit = f"commit {self.commit[:10]} of {self.day}" if self.commit else self.name
        return f"{commit} ({' and '.join(self.processors) or 'its processor is not recorded'})"


def last_with_results(folder: Path) -> str:
    """The newest commit that holds a table of results or of claims. Raises NothingPublished if there is none."""
    for path in (RESULTS, CLAIMS):
        if file_at(folder, "HEAD", path) is not None:
            return "HEAD"
        past = history(folder, path)
        if found := next((name for name in past.commits if past.contents[name] is not None), None):
            return found
    raise NothingPublished(f"no commit holds {RESULTS}: name a commit, a table or a folder with results (`--against`)")


def files_of(run: Run) -> list[str]:
    """The tables and metric files that a run can be held against by, those that can be read."""
    made = sorted(path for stage in run.stages.values() for path in stage.outs)
    wanted = [path for path in made if path == RESULTS or (path.startswith(f"{METRICS}/") and path.endswith(".json"))]
    return [path for path in wanted if run.read(path) is not None]


def numbers_in(ledger: Ledger, file: str, text: str) -> list[Number]:
    """The numbers of a file of the suite from its text, as another run has it; none of a path that leads out of the suite.

    The text is laid into a folder of its own: a lock or a quotation that somebody else wrote must not choose where.
    """
    if Path(file).is_absolute() or ".." in Path(file).parts:
        return []
    with tempfile.TemporaryDirectory() as folder:
        (copy := Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
        return find(replace(ledger, folder=Path(folder)), file)


def numbers_at(run: Run, ledger: Ledger, file: str) -> list[Number]:
    """The numbers of a file in a run; none where the run's own lock names other bytes."""
    text = run.read(file)
    return numbers_in(ledger, file, text) if text is not None and as_locked(run, file, text) else []


def text_at(run: Run, paths: Iterable[str], write: Callable[[Path], str]) -> str:
    """What `write` makes of files of a suite as a run has them, laid into a folder; empty where one is not there or not the lock's."""
    texts = {path: run.read(path) for path in paths}
    if not all(text is not None and (path == PARAMS_FILE or as_locked(run, path, text)) for path, text in texts.items()):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        for path, text in texts.items():
            (copy := Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text or "", encoding="utf-8")
        return write(Path(folder))


def as_locked(run: Run, file: str, text: str) -> bool:
    """Whether a run's own lock, and the record of the stage that made it where that is at hand, name a file with these bytes."""
    md5, sha256 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(), hashlib.sha256(text.encode()).hexdigest()
    makers = [stage for stage in run.stages.values() if file in stage.outs]
    said = [outs.get(file) for stage in makers if isinstance(outs := run.record(stage).get("outputs"), dict)]
    return any(stage.outs[file].md5 == md5 for stage in makers) and all(digest == sha256 for digest in said)


def origin(run: Run) -> Origin:
    """Where a run's results were made: by its `published.json`, if that is about these tables, or by the records that are at hand."""
    said = _said(run)
    if not said or said.get("sha256") != _digests(run):
        said = machine(run)
    return Origin(run.name, run.commit, run.day, tuple(said["processors"]), tuple(said["torch"]))


def _said(run: Run) -> dict[str, Any]:
    """What the note says, as far as it is one; it may be somebody else's."""
    try:
        found = json.loads(run.read(FILE) or "{}")
        names = {key: [str(text) for text in found[key] if str(text).isprintable()] for key in ("processors", "torch")}
    except (ValueError, TypeError, KeyError):
        return {}
    return {**names, "sha256": found.get("sha256")}


def wrong_note(folder: Path) -> str:
    """What `published.json` says of results that lie here and their records contradict; nothing where both agree or are silent."""
    run = open_run(str(folder), folder)
    try:
        said, found, digests = _said(run), machine(run), _digests(run)
    except UnicodeDecodeError:  # of a table or a record, which has a finding of its own
        return ""
    if said.get("sha256") != digests:
        return ""
    told = {key: (", ".join(said[key]), ", ".join(names)) for key, names in found.items() if names and said[key] != names}
    unlike = [f"{key} {ours}; the records name {theirs}" for key, (ours, theirs) in told.items()]
    return f"{FILE} names {'; and '.join(unlike)}" if unlike else ""


def _digests(run: Run) -> dict[str, str]:
    return {path: hashlib.sha256(text.encode()).hexdigest() for path in (RESULTS, CLAIMS) if (text := run.read(path)) is not None}


def machine(run: Run) -> dict[str, list[str]]:
    """The processors (GPUs where they computed) and versions of torch that a run's records name; empty lists where none is at hand."""
    records = [record for stage in run.stages.values() if (record := run.record(stage))]
    computed = [record for record in records if record.get("determinism")] or records
    return {
        "processors": _distinct(_part(record, "device", "name") or _part(record, "host", "processor") for record in computed),
        "torch": _distinct(_part(record, "packages", "torch") for record in computed),
    }


def _part(record: dict[str, Any], key: str, name: str) -> Any:
    """A value of a part of a record; None where it has another form."""
    return part.get(name) if isinstance(part := record.get(key), dict) else None


def _distinct(values: Iterable[Any]) -> list[str]:
    return sorted({str(value) for value in values if value})


def publish(folder: Path) -> dict[str, Any]:
    """Write `published.json` for the results that lie in `folder`. Raises UserError if its records do not say where they were made."""
    run = open_run(str(folder), folder)
    content = {**machine(run), "sha256": _digests(run)}
    if not content["processors"] or not content["sha256"]:
        raise UserError(f"{folder}: no table, or no record that says where it was made: run the suite first")
    save_json(folder / FILE, content)
    return content
