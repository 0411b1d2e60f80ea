"""Where a number or a file comes from: its chain of links, down to the data."""

import json
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from backtrail.audit.audit import judge
from backtrail.audit.checks import HashAudit
from backtrail.audit.findings import Finding, worst
from backtrail.errors import UserError
from backtrail.ledger.hashes import Hashes
from backtrail.ledger.ledger import Ledger, Stage, at_key, open_ledger
from backtrail.ledger.numbers import CURVES, METRICS, Number, find, read_rows
from backtrail.ledger.record import recipe_key
from backtrail.ledger.schema import faults

PAPER_FILE = Path(__file__).with_name("paper_parameters.yaml")
UNKNOWN = "unknown"
ID = re.compile(r"[0-9a-f]{8,64}")  # the head of a sha256 or of a recipe key


def why(target: str, folder: str | Path = ".") -> dict[str, Any]:
    """The chain behind `FILE[:SELECTOR]`, or behind a short id, as one JSON-able tree, every link read and held against the ledger.

    Raises UserError if the target names nothing, or more than one number, or a file that no stage made.
    """
    ledger = open_ledger(folder)
    file, _, selector = target.partition(":")
    file = Path(file).as_posix()
    if ID.fullmatch(file) and not ledger.below(file):
        file = by_id(ledger, file)
    elif not ledger.below(file):
        raise UserError(f"{file} was made by no stage of this suite: dvc.lock has no output of that name, or above or below it")
    (number,) = find(ledger, f"{file}:{selector}") if selector else [None]
    hashes = Hashes(ledger.folder)
    roots = list(number.sources) if number else ledger.below(file)
    rests = number.closure(ledger) if number else frozenset().union(*map(ledger.closure, roots))
    findings = [finding for finding in HashAudit(ledger, hashes).findings() if finding.subject in rests]
    chain = Chain(ledger, hashes, findings)
    if number is None:
        return {"target": target, "verdict": worst([f.verdict for f in findings]), "chain": [chain.link(path) for path in roots]}
    return {
        "target": target,
        **describe(ledger, number),
        "verdict": judge(ledger, number, findings, set()).verdict,
        "findings": [vars(finding) for finding in findings],
        "table": chain.link(number.file, only=number.sources),
    }


def by_id(ledger: Ledger, name: str) -> str:
    """The output whose digest, or the record whose recipe key, begins with `name`. Raises UserError if none or several do."""
    found = []
    for stage in ledger.stages.values():
        record = ledger.records[stage.name]
        if record is None or faults(record):
            continue
        found += [path for path, sha256 in record["outputs"].items() if sha256.startswith(name)]
        if recipe_key(stage.name, record["parameters"], record["inputs"], record["code"]).startswith(name):
            found.append(stage.record)
    if len(found) == 1:
        return found[0]
    several = f"it begins the digests of {', '.join(found[:4])}: add digits" if found else "it was made by other code, parameters or data"
    raise UserError(f"{name} is the short id of {len(found) or 'no'} results of this suite; {several}")


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
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    guidance = row.get("guidance")
    student = "student" if guidance is None else f"student-w{float(guidance):g}"
    of = content["values"].get(student) or content["values"].get(row.get("method", ""), {})
    value = of.get(f"nfe{row.get('nfe')}", {}).get(metric)
    protocol = next((entry for entry in content["protocol"] if entry["metric"] == metric), None)
    return None if value is None else {"seed": content.get("seed", 0), "value": value, "protocol": protocol}


def _spread(values: list[dict[str, Any]]) -> dict[str, float | None]:
    numbers = [one["value"] for one in values]
    return {
        "mean": statistics.fmean(numbers),
        "std": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "least": min(numbers),
    }


class Chain:
    """Builds the tree of links. What has been told once is referred to by name after that."""

    def __init__(self, ledger: Ledger, hashes: Hashes, findings: list[Finding]):
        self.ledger, self.hashes, self.findings = ledger, hashes, findings
        self._told: set[str] = set()

    def link(self, path: str, only: Iterable[str] | None = None) -> dict[str, Any]:
        """One file or folder: digests, verdict, the stage that made it, and what that stage read (of it, `only` these)."""
        stage, digest = self.ledger.maker(path), self.hashes.of(path)
        about = {path} | ({f"stage:{stage.name}", stage.record} if stage else set())
        wrong = [finding for finding in self.findings if finding.subject in about]
        node: dict[str, Any] = {
            "path": path,
            "sha256": digest.sha256 if digest else None,
            "md5": digest.md5 if digest else None,
            "size_bytes": digest.size_bytes if digest else None,
            "verdict": worst([finding.verdict for finding in wrong]),
        }
        if stage is None:
            return node | {"stage": None}
        if path in self._told:
            return node | {"stage": stage.name, "told": True}
        self._told.add(path)
        sources = list(only) if only is not None else self.ledger.inputs(stage)
        return node | self._stage(stage) | {"from": [self.link(source) for source in sources]}

    def _stage(self, stage: Stage) -> dict[str, Any]:
        record = self.ledger.records[stage.name]
        about: dict[str, Any] = {"stage": stage.name, "command": stage.command, "record": stage.record}
        if record is None or faults(record):
            return about
        device = record.get("device") or {}
        return (
            about
            | {
                "commit": record["commit"],
                "dirty": record["dirty"],
                "device": device.get("name") or record["host"]["processor"],
                "packages": {name: record["packages"].get(name) for name in ("torch", "numpy")},
                "started": record["started"],
                "seconds": record["seconds"],
                "cpu_seconds": record["cpu_seconds"],
                "gpu_seconds": record.get("gpu_seconds", 0.0),
                "resumed_from": record.get("resumed_from", []),
                "seeds": record.get("seeds", []),
                "parameters": record["parameters"],
                "unlike_paper": unlike_paper(stage, record),
                "notes": record["notes"],
            }
            | self._extra(stage)
        )

    def _extra(self, stage: Stage) -> dict[str, Any]:
        """The nodes of a path with their digests; the cost of a student in network forwards."""
        extra: dict[str, Any] = {}
        for out in stage.products:
            if rows := read_rows(self.ledger.folder / out / "path.csv"):
                extra["nodes"] = [{"node": int(row["node"]), "step": int(row["step"]), "tensors_sha256": row["digest"]} for row in rows]
            if out.startswith(CURVES) and (rows := read_rows(self.ledger.folder / out)):
                extra["cost_F"] = float(rows[-1]["cost"])
        return extra


def unlike_paper(stage: Stage, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameters of a method's training that are not the paper's (for CIFAR-10), with the paper's value or `unknown`, and its source."""
    parameters = record["parameters"].get("method")
    name = stage.name.partition("@")[2].rpartition("-")[0]
    papers = yaml.safe_load(PAPER_FILE.read_text(encoding="utf-8"))
    if not isinstance(parameters, dict) or name not in papers["methods"] or "samples" in stage.name:
        return []
    said = papers["methods"][name]
    recording = "path@" in stage.name
    return [
        {"parameter": key, "ours": at_key(parameters, key), "paper": value, "source": papers["sources"][said["source"]]}
        for key, value in said["parameters"].items()
        if at_key(parameters, key) != value and key.startswith("recording.") == recording
    ]
