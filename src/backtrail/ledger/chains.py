"""What rests on what, as trees of links: the one model behind `why` (as text and JSON) and the page's chains (as HTML).

A chain is made from a `Ledger`. `recorded_ledger` makes one from the records alone, for a page that is the same on every run: it reads
nothing of dvc.lock, which says nothing of a stage that has just ended. When a stage ran, where, how long and at which commit is no part
of a link: a second run has other times and the same links.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backtrail.artifacts import load_json
from backtrail.errors import UserError
from backtrail.layout import CURVES, PARAMS_FILE, RECORDS
from backtrail.ledger.ledger import Entry, Ledger, Stage
from backtrail.ledger.numbers import Number, layout_of, of_json, of_rows, read_rows
from backtrail.parameters.base import read

# How a damaged table or record shows itself here; the level `hash` of the audit names it, and the chain is told without that fact.
TORN = (ValueError, LookupError, AttributeError, TypeError)


@dataclass(frozen=True)
class Link:
    """A file or folder in a chain: what made it (None for what comes from outside), out of what, and what is told beside it."""

    path: str
    stage: Stage | None = None
    sources: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The digest that the ledger names, md5 of dvc.lock or sha256 of the records; empty for what comes from outside."""
        return self.stage.outs[self.path].md5 if self.stage and self.path in self.stage.outs else ""


@dataclass(frozen=True)
class Branch:
    """A link in a tree. `told`: it stood further up already, and is named here and not unfolded again."""

    link: Link
    told: bool
    branches: list["Branch"]


@dataclass
class Chains:
    """The links of a ledger, each made once, and the trees that they make."""

    ledger: Ledger
    links: dict[str, Link] = field(default_factory=dict)

    def rows(self, file: str) -> list[dict[str, Number]]:
        """The numbers of a table or a figure's data, row by row, by column; none where nothing is known of its columns."""
        layout = layout_of(file)
        return list(of_rows(self.ledger, file, layout)) if layout else []

    def values(self, file: str) -> dict[str, Number]:
        """The numbers of a metric file or of a reference's, by `PLACE,NAME`."""
        return {number.name.partition(":")[2]: number for number in of_json(self.ledger, file)}

    def link(self, path: str) -> Link:
        """The link of a file, with everything below it in `links`."""
        if path not in self.links:
            stage = self.ledger.maker(path)
            if stage is None:
                self.links[path] = Link(path)
            else:
                sources = tuple(self.ledger.inputs(stage))
                self.links[path] = Link(path, stage, sources, facts(self.ledger, stage, path))
                for source in sources:
                    self.link(source)
        return self.links[path]

    def tree(self, paths: Iterable[str], told: set[str] | None = None) -> list[Branch]:
        """The trees below these files; what is in `told` is not unfolded, and what is told here is added to it."""
        told = set() if told is None else told
        return [self._branch(path, told) for path in paths]

    def _branch(self, path: str, told: set[str]) -> Branch:
        link, known = self.link(path), path in told
        told.add(path)
        return Branch(link, known and bool(link.sources), [] if known else self.tree(link.sources, told))


def facts(ledger: Ledger, stage: Stage, path: str) -> dict[str, Any]:
    """What is told of a link beside its digest: seeds, the nodes of a path, the cost of a student in network forwards, files fetched."""
    record = ledger.records[stage.name] or {}
    found: dict[str, Any] = {"seeds": record.get("seeds", [])}
    with suppress(*TORN):
        if nodes := read_rows(ledger.folder / path / "path.csv"):
            found["nodes"] = [{"node": int(row["node"]), "step": int(row["step"]), "tensors_sha256": row["digest"]} for row in nodes]
    with suppress(*TORN):
        curve = next((ledger.folder / out for out in stage.products if out.startswith(f"{CURVES}/")), None)
        if curve is not None and path.endswith(".safetensors") and (rows := read_rows(curve)):
            found["cost_F"] = float(rows[-1]["cost"])
    with suppress(*TORN):
        if files := [file for file in record.get("notes", {}).get("files", []) if "sha256" in file]:
            found["files"] = files
    return found


def recorded_ledger(folder: str | Path = ".") -> Ledger:
    """What the records of the suite in `folder` say, with sha256 in the place of md5. Raises UserError if one is absent or no record."""
    folder = Path(folder)
    records = {}
    for path in sorted((folder / RECORDS).glob("*.json")):
        record = load_json(path)
        if not isinstance(record, dict) or not {"stage", "inputs", "outputs", "parameters"} <= record.keys():
            raise UserError(f"{path} is no record of a stage: restore it with `dvc checkout {path}`, or delete it and run its stage again")
        records[record["stage"]] = record
    read_by_name = {path for record in records.values() for path in record["inputs"]}
    stages = {name: _stage(folder, record, read_by_name) for name, record in records.items()}
    return Ledger(folder, stages, records, read(folder / PARAMS_FILE))


def _stage(folder: Path, record: dict[str, Any], read_by_name: set[str]) -> Stage:
    """A record as the ledger has stages; of its files those that are here or that a stage read by name.

    What is left out is what a folder once held: of a method that was taken out of the parameters, and whose record outlived it.
    """
    inputs, outputs = ({path: Entry(path, sha256, 0) for path, sha256 in record[kind].items()} for kind in ("inputs", "outputs"))
    counted = {path: entry for path, entry in outputs.items() if path in read_by_name or (folder / path).exists()}
    return Stage(record["stage"], "", inputs, {}, counted)


def chains(folder: str | Path = ".") -> Chains:
    """The chains by the records of the suite in `folder`. Raises UserError if one is absent or no record."""
    return Chains(recorded_ledger(folder))
