"""Where a number or a file comes from: its chain of links, down to the data."""

import functools
import statistics
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backtrail.artifacts import load_yaml
from backtrail.audit.audit import judge
from backtrail.audit.checks import hash_findings
from backtrail.audit.findings import Finding, worst
from backtrail.audit.ids import ID, by_id
from backtrail.audit.runs import object_at
from backtrail.errors import UserError
from backtrail.laid_down import ROOT
from backtrail.layout import LOCK_FILE, METRICS, PATHS, STUDENTS
from backtrail.ledger.chains import Branch, Chains
from backtrail.ledger.confined import open_confined
from backtrail.ledger.hashes import Hashes
from backtrail.ledger.ledger import Ledger, Stage, at_key
from backtrail.ledger.numbers import Number, find
from backtrail.ledger.schema import faults
from backtrail.nested import is_number

PAPER_FILE = Path(__file__).with_name("paper_parameters.yaml")
UNKNOWN = "unknown"


def why(target: str, folder: str | Path = ".") -> dict[str, Any]:
    """The chain behind `FILE[:SELECTOR]`, or behind a short id, as one JSON-able tree, every link read and held against the ledger.

    A short id may be of another suite of this repository: `suite` names it then, and paths are told from the repository's folder.
    Raises UserError if the target names nothing, or more than one number, or a file that no stage made.
    """
    file, _, selector = target.partition(":")
    file, is_id = Path(file).as_posix(), ID.fullmatch(file) is not None
    ledger = open_confined(folder) if not is_id or (Path(folder) / LOCK_FILE).exists() else None
    roots = ledger.below(file) if ledger else []
    if is_id and not roots:
        ledger, roots = by_id(file, ledger)
        file = roots[0]
    if ledger is None or not roots:
        raise UserError(f"{file} was made by no stage of this suite: dvc.lock has no output of that name, or above or below it")
    (number,) = find(ledger, f"{file}:{selector}") if selector else [None]
    hashes = Hashes(ledger.folder)
    roots = list(number.sources) if number else roots
    rests = number.closure(ledger) if number else frozenset().union(*map(ledger.closure, roots))
    findings = [finding for finding in hash_findings(ledger, hashes) if finding.subject in rests]
    told, chains = Told(ledger, hashes, findings), Chains(ledger)
    other = ledger.folder.resolve() != Path(folder).resolve()
    about = {"target": target} | ({"suite": ledger.folder.relative_to(ROOT).as_posix()} if other else {})

    def branches(of: list[Branch]) -> list[dict[str, Any]]:
        return [_told_from_above(link, ledger.folder) if other else link for link in told.branches(of)]

    if number is None:
        return about | {"verdict": worst([f.verdict for f in findings]), "chain": branches(chains.tree(roots))}
    table = Branch(chains.link(number.file), False, chains.tree(number.sources, {number.file}))
    return {
        **about,
        **describe(ledger, number),
        "verdict": judge(ledger, number, findings, set()).verdict,
        "findings": [vars(finding) for finding in findings],
        "table": branches([table])[0],
    }


def describe(ledger: Ledger, number: Number) -> dict[str, Any]:
    """A number with all its digits: its row, the values per seed that it is the mean (or spread, or least) of, and its protocol."""
    row = dict(number.row)
    head: dict[str, Any] = {"number": number.name, "value": number.text, "row": row, "column": number.column}
    if number.external:
        return head | {"external": True}
    metric = number.column.rpartition("_")[0] if number.column.endswith(("_mean", "_std", "_min")) else row.get("metric", "")
    values, protocol = [], None
    for path in number.sources:
        if path.startswith(METRICS):
            found = _measured(ledger.folder / path, row, metric)
            if found is not None:
                values.append({"seed": found["seed"], "value": found["value"], "file": path})
                protocol = found["protocol"]
    return head | ({"metric": metric, "values": values, **_spread(values), "protocol": protocol} if values else {})


def _measured(path: Path, row: dict[str, str], metric: str) -> dict[str, Any] | None:
    """A metric file's value for a row, with its seed and protocol; None where it has none.

    A file that is torn or of another form has none either: that its bytes are not the ledger's is found already.
    """
    content = object_at(path)
    values, protocols = content.get("values"), content.get("protocol")
    sources = [_student(row), row.get("method", "")]
    of = next((found for source in sources if isinstance(values, dict) and (found := values.get(source))), None)
    by_metric = of.get(f"nfe{row.get('nfe')}") if isinstance(of, dict) else None
    value = by_metric.get(metric) if isinstance(by_metric, dict) else None
    if not is_number(value):
        return None
    entries = [entry for entry in protocols if isinstance(entry, dict)] if isinstance(protocols, list) else []
    protocol = next((entry for entry in entries if entry.get("metric") == metric), None)
    return {"seed": content.get("seed", 0), "value": value, "protocol": protocol}


def _student(row: dict[str, str]) -> str:
    """The name in a metric file of the student's images that a row is of: those under guidance have the weight in it."""
    try:
        return f"student-w{float(row['guidance']):g}" if "guidance" in row else "student"
    except ValueError:
        return ""


def _spread(values: list[dict[str, Any]]) -> dict[str, float | None]:
    numbers = [one["value"] for one in values]
    return {
        "mean": statistics.fmean(numbers),
        "std": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "least": min(numbers),
    }


@dataclass
class Told:
    """Tells a chain's branches for programs, with what is found wrong of each."""

    ledger: Ledger
    hashes: Hashes
    findings: list[Finding]

    def branches(self, of: list[Branch]) -> list[dict[str, Any]]:
        """Each with digests, verdict, the stage that made it, and what that stage read."""
        return [self.link(branch) | self._unfolded(branch) for branch in of]

    def link(self, branch: Branch) -> dict[str, Any]:
        """One file or folder by itself."""
        path, stage, digest = branch.link.path, branch.link.stage, self.hashes.of(branch.link.path)
        about = {path} | ({f"stage:{stage.name}", stage.record} if stage else set())
        return {
            "path": path,
            "sha256": digest.sha256 if digest else None,
            "md5": digest.md5 if digest else None,
            "size_bytes": digest.size_bytes if digest else None,
            "verdict": worst([finding.verdict for finding in self.findings if finding.subject in about]),
            "stage": stage.name if stage else None,
        }

    def _unfolded(self, branch: Branch) -> dict[str, Any]:
        if branch.told:
            return {"told": True}
        stage = branch.link.stage
        if stage is None:
            return {}
        beyond = [tree for file in branch.link.facts.get("files", []) for tree in elsewhere(file["sha256"], self.ledger.folder)]
        return {**self.made_by(stage, branch.link.facts), "from": [*self.branches(branch.branches), *beyond]}

    def made_by(self, stage: Stage, facts: dict[str, Any]) -> dict[str, Any]:
        """The stage's run, as far as its record can be read."""
        record = self.ledger.records[stage.name]
        about: dict[str, Any] = {"cmd": stage.cmd, "record": stage.record}
        if record is None or faults(record):
            return about
        device = record["device"] or {}
        copied = ("commit", "dirty", "started", "seconds", "cpu_seconds", "gpu_seconds", "resumed_from", "seeds", "parameters", "notes")
        return {
            **about,
            **{key: record[key] for key in copied},
            "device": device.get("name") or record["host"]["processor"],
            "packages": {name: record["packages"].get(name) for name in ("torch", "numpy")},
            "unlike_paper": unlike_paper(stage, record),
            **{key: of for key, of in facts.items() if key in ("nodes", "cost_F")},
        }


def elsewhere(sha256: str, folder: Path) -> list[dict[str, Any]]:
    """The chain of a fetched file in that suite of this repository whose stage made it, by its ledger; nothing of what none has made.

    Its paths are told from the repository's folder.
    """
    suite, path = made_in_suites().get(sha256, (folder, ""))
    if suite.resolve() == folder.resolve():
        return []
    ledger, hashes, found = _judged(suite)
    findings = [finding for finding in found if finding.subject in ledger.closure(path)]
    return [_told_from_above(tree, suite) for tree in Told(ledger, hashes, findings).branches(Chains(ledger).tree([path]))]


@functools.cache
def _judged(suite: Path) -> tuple[Ledger, Hashes, list[Finding]]:
    """A suite's ledger, held against its files once for all files that were fetched from it."""
    ledger = open_confined(suite)
    hashes = Hashes(ledger.folder)
    return ledger, hashes, list(hash_findings(ledger, hashes))


@functools.cache
def made_in_suites() -> dict[str, tuple[Path, str]]:
    """Suite and path of every output in the ledgers that lie below suites/, by sha256; not of what a suite fetched and passed on."""
    found = {}
    for lock in sorted(ROOT.glob(f"suites/*/{LOCK_FILE}")):
        ledger = open_confined(lock.parent)
        records = [record for record in ledger.records.values() if record is not None and not faults(record)]
        fetched = {file["sha256"] for record in records for file in fetched_in(record)}
        outputs = {sha256: (lock.parent, path) for record in records for path, sha256 in record["outputs"].items() if ledger.maker(path)}
        found |= {sha256: place for sha256, place in outputs.items() if sha256 not in fetched}
    return found


def fetched_in(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The files that a stage fetched, by its record; somebody else's may name none, or things that are no files."""
    files = record["notes"].get("files")
    return [file for file in files if isinstance(file, dict) and isinstance(file.get("sha256"), str)] if isinstance(files, list) else []


def _told_from_above(link: dict[str, Any], suite: Path) -> dict[str, Any]:
    """A link of another suite, and those below it, with paths from the repository's folder."""
    if link["path"].startswith("suites/"):  # of a third suite, that this one imported from
        return link
    below = {"from": [_told_from_above(source, suite) for source in link["from"]]} if "from" in link else {}
    return link | {"path": (suite.relative_to(ROOT) / link["path"]).as_posix()} | below


def unlike_paper(stage: Stage, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameters of a method's training that are not the paper's (for CIFAR-10), with the paper's value or `unknown`, and its source.

    A stage that records a path is asked about the recording, one that makes a student about everything else.
    """
    records = any(path.startswith(f"{PATHS}/") for path in stage.products)
    if not records and not any(path.startswith(f"{STUDENTS}/") for path in stage.products):
        return []
    papers = load_yaml(PAPER_FILE.read_text(encoding="utf-8"))
    method, parameters = _of_method(record["parameters"], papers["methods"])
    said = papers["methods"].get(method)
    if said is None:
        return []
    return [
        {"parameter": name, "ours": at_key(parameters, name), "paper": value, "source": papers["sources"][said["source"]]}
        for name, value in said["parameters"].items()
        if at_key(parameters, name) != value and name.startswith("recording.") == records
    ]


def _of_method(parameters: dict[str, Any], known: Collection[str]) -> tuple[str, dict[str, Any]]:
    """The one method that a record's parameters are of, and its section as far as the stage depends on it: whole, or field by field."""
    for key, value in parameters.items():
        parts = key.split(".")
        depth = next((i for i, part in enumerate(parts) if part in known), None)
        if depth is not None:
            prefix = f"{'.'.join(parts[: depth + 1])}."
            fields = {k.removeprefix(prefix): of for k, of in parameters.items() if k.startswith(prefix)}
            return parts[depth], fields or value
    return "", {}
