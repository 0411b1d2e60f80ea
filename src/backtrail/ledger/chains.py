"""What the numbers of a suite rest on, by content alone: for a page that shows chains and is the same on every run.

The digests come from the stages' records and not from dvc.lock, which says nothing of a stage that has just ended. When a stage ran, where,
how long and at which commit is left out: a second run has other times and the same page.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backtrail.artifacts import load_json
from backtrail.errors import UserError
from backtrail.ledger.ledger import RECORDS, Entry, Ledger, Stage
from backtrail.ledger.numbers import Number, layout_of, of_json, of_rows, read_rows
from backtrail.parameters.base import PARAMS_FILE, read


@dataclass(frozen=True)
class Link:
    """A file or folder in a chain: what made it, and out of what."""

    path: str
    sha256: str
    stage: str = ""  # empty for what comes from outside
    sources: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


@dataclass
class Chains:
    """The links below every number, and the number in each cell."""

    ledger: Ledger
    links: dict[str, Link] = field(default_factory=dict)

    def rows(self, file: str) -> list[dict[str, Number]]:
        """The numbers of a table or a figure's data, row by row, by column; none where nothing is known of its columns."""
        layout = layout_of(file)
        return list(of_rows(self.ledger, file, layout)) if layout else []

    def values(self, file: str) -> dict[str, Number]:
        """The numbers of a metric file or of a reference's, by `PLACE,NAME`."""
        return {number.name.partition(":")[2]: number for number in of_json(self.ledger, file)}

    def add(self, path: str) -> Link:
        """The link of a file, with everything below it in `links`."""
        if path not in self.links:
            stage = self.ledger.makers.get(path)
            if stage is None:
                self.links[path] = Link(path, "")
            else:
                sources = tuple(self.ledger.inputs(stage))
                self.links[path] = Link(path, stage.outs[path].md5, stage.name, sources, tuple(self._facts(stage, path)))
                for source in sources:
                    self.add(source)
        return self.links[path]

    def _facts(self, stage: Stage, path: str) -> list[str]:
        """What is told of a link beside its digest: seeds, the nodes of a path, the cost of a student, the files that were fetched."""
        record = self.ledger.records[stage.name] or {}
        facts = [f"seed {seed}" for seed in record.get("seeds", [])]
        nodes = read_rows(self.ledger.folder / path / "path.csv")
        facts += [f"node {row['node']} at step {row['step']}: tensors {row['digest'][:12]}" for row in nodes]
        curve = next((self.ledger.folder / out for out in stage.products if out.startswith("results/curves/")), None)
        if curve is not None and path.endswith(".safetensors"):
            facts += [f"cost {float(row['cost']):,.0f} F" for row in read_rows(curve)[-1:]]
        facts += [f"{file['name']}: sha256 {file['sha256'][:12]}" for file in record.get("notes", {}).get("files", []) if "sha256" in file]
        return facts


def chains(folder: str | Path = ".") -> Chains:
    """What the records of the suite in `folder` say. Raises UserError if one is absent or no record."""
    folder = Path(folder)
    records = {}
    for path in sorted((folder / RECORDS).glob("*.json")):
        record = load_json(path)
        if not isinstance(record, dict) or not {"stage", "inputs", "outputs", "parameters"} <= record.keys():
            raise UserError(f"{path} is no record of a stage: restore it with `dvc checkout {path}`, or delete it and run its stage again")
        records[record["stage"]] = record
    read_by_name = {path for record in records.values() for path in record["inputs"]}
    stages = {name: _stage(folder, record, read_by_name) for name, record in records.items()}
    return Chains(Ledger(folder, stages, records, read(folder / PARAMS_FILE)))


def _stage(folder: Path, record: dict[str, Any], read_by_name: set[str]) -> Stage:
    """A record as the ledger has stages, with sha256 in the place of md5; of its files those that are here or that a stage read by name.

    What is left out is what a folder once held: of a method that was taken out of the parameters, and whose record outlived it.
    """
    inputs, outputs = ({path: Entry(path, sha256, 0) for path, sha256 in record[kind].items()} for kind in ("inputs", "outputs"))
    counted = {path: entry for path, entry in outputs.items() if path in read_by_name or (folder / path).exists()}
    return Stage(record["stage"], "", inputs, {}, counted)
