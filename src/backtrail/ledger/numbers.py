"""The numbers that a suite shows, and what each rests on: cells of tables and figures' data, and values of metric files."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backtrail.errors import UserError
from backtrail.layout import AXES, CURVES, FIGURES, METRICS, MISMATCH, PATHS, REFERENCE, STATES, TABLES, TEACHER_VALUES
from backtrail.ledger.ledger import Ledger
from backtrail.nested import is_number, leaves

QUOTED = re.compile(r"^paper_")


@dataclass(frozen=True)
class Layout:
    """What a table's columns are: `keys` name a row, `first` is the column that is meant where none is named, and `sources` tells which
    folder the cells of a column come from (a pattern of the column's name each, the first that fits)."""

    keys: tuple[str, ...]
    first: str
    sources: tuple[tuple[str, str], ...] = ()


LAYOUTS = {
    f"{TABLES}/results.csv": Layout(("kind", "method", "nfe", "guidance", "trained"), "", (("cost_F", CURVES), ("", METRICS))),
    f"{TABLES}/claims.csv": Layout(("claim", "text", "source", "quantity"), "verdict"),
    f"{FIGURES}/convergence.csv": Layout(("method", "update", "nfe"), "mean", (("floor", REFERENCE), ("", CURVES))),
    f"{FIGURES}/mismatch.csv": Layout(("measure", "method", "update"), "mean", (("", MISMATCH),)),
    f"{FIGURES}/path.csv": Layout(("method", "loss", "node"), "mean", (("", PATHS),)),
    f"{FIGURES}/nfe.csv": Layout(("metric", "kind", "method", "nfe", "guidance", "trained"), "mean", (("floor", REFERENCE), ("", METRICS))),
    f"{FIGURES}/cost.csv": Layout(("metric", "kind", "method", "nfe"), "mean", (("cost", CURVES), ("", METRICS))),
    f"{FIGURES}/scaling.csv": Layout(("size", "images", "nfe", "metric", "source"), "mean"),
    f"{FIGURES}/samples.csv": Layout(("row", "column", "source", "key", "image_seed"), "sha256"),
    f"{FIGURES}/ring.csv": Layout(("panel", "method", "update"), "mean", (("floor", TEACHER_VALUES), ("teacher", TEACHER_VALUES))),
    f"{FIGURES}/text-samples.csv": Layout(("row", "column", "caption", "source", "key", "image_seed"), "sha256"),
    f"{FIGURES}/text-nfe.csv": Layout(("metric", "kind", "method", "guidance", "nfe"), "mean", (("floor", REFERENCE), ("", METRICS))),
    f"{TABLES}/text.csv": Layout(
        ("kind", "method", "nfe", "guidance", "trained"), "", (("floor_", REFERENCE), ("real_", REFERENCE), ("", METRICS))
    ),
    f"{FIGURES}/latent-samples.csv": Layout(("row", "column", "caption", "source", "key", "image_seed"), "sha256"),
    f"{FIGURES}/latent-nfe.csv": Layout(("metric", "kind", "method", "guidance", "nfe"), "mean", (("", METRICS),)),
    f"{TABLES}/latent.csv": Layout(("kind", "method", "nfe", "guidance", "trained"), "", (("", METRICS),)),
    f"{FIGURES}/trajectory.csv": Layout(("image", "kind", "method", "nfe", "state"), "distance", (("", STATES),)),
    f"{FIGURES}/degradation.csv": Layout(
        ("method", "key", "node", "step", "update", "column", "image_seed", "sampler", "source"), "loss_student"
    ),
}
# An ablation's data, over methods by the end of their curves or over the teacher's samplers by their metrics.
AXIS = Layout(
    ("value", "kind", "method", "baseline", "seed", "nfe", "metric"),
    "fd_classifier",
    (("floor", REFERENCE), ("mean", METRICS), ("", CURVES)),
)


def layout_of(file: str) -> Layout | None:
    """What is known of a table's columns; None of any other file."""
    return AXIS if file.startswith(f"{AXES}/") and file.endswith(".csv") else LAYOUTS.get(file)


@dataclass(frozen=True)
class Number:
    """One number: the file and the row that it stands in, its column, its text, and the files it was computed from."""

    file: str
    row: tuple[tuple[str, str], ...]
    column: str
    text: str
    sources: tuple[str, ...]
    external: bool = False

    @property
    def name(self) -> str:
        """How it is asked for: FILE:row,column."""
        parts = [value if key in ("method", "claim", "metric", "measure", "loss", "value") else f"{key}={value}" for key, value in self.row]
        return f"{self.file}:{','.join([*parts, self.column])}"

    def closure(self, ledger: Ledger) -> frozenset[str]:
        """Everything that it rests on. Its own table rests on more than it does: of that, only the stage counts that wrote it."""
        stage = ledger.maker(self.file)
        own = {self.file} if stage is None else {self.file, f"stage:{stage.name}", stage.record}
        return frozenset(own).union(*(ledger.closure(source) for source in self.sources))


def numbers(ledger: Ledger) -> Iterator[Number]:
    """Every number of the suite that lies here, in the tables and figures' data first, then in the metric files."""
    for file in dict.fromkeys([*LAYOUTS, *(out for out in ledger.makers if layout_of(out))]):
        if (layout := layout_of(file)) and (ledger.folder / file).is_file():
            yield from of_table(ledger, file, layout)
    for file in sorted(out for out in ledger.makers if out.startswith((METRICS + "/", REFERENCE + "/")) and out.endswith(".json")):
        if (ledger.folder / file).is_file():
            yield from of_json(ledger, file)


def of_table(ledger: Ledger, file: str, layout: Layout) -> Iterator[Number]:
    """The cells of a CSV file that are no keys and not empty."""
    for row in of_rows(ledger, file, layout):
        yield from row.values()


def of_rows(ledger: Ledger, file: str, layout: Layout) -> Iterator[dict[str, Number]]:
    """The same row by row, by column."""
    stage = ledger.maker(file)
    inputs = ledger.inputs(stage) if stage else []
    for row in read_rows(ledger.folder / file):
        mine = [path for path in rests_on(ledger, row, inputs) if path in ledger.makers]
        found = {}
        for column, text in row.items():
            if column in layout.keys or not text:
                continue
            quoted = QUOTED.match(column) is not None
            top = next((folder for start, folder in layout.sources if column.startswith(start)), "")
            # A constant, as the cost 0 of a solver, comes from no file of the column's folder: it rests on the row's own.
            sources = () if quoted else tuple([path for path in mine if path.startswith(top)] or mine)
            found[column] = Number(file, _named(row, layout), column, text, sources, quoted)
        yield found


def _named(row: dict[str, str], layout: Layout) -> tuple[tuple[str, str], ...]:
    """What names a row: its keys but those that others imply. A row without guidance is the one that is meant where none is named."""
    left_out = {"kind", "trained", "text", "source", "quantity"}
    if row.get("guidance") in ("1", "1.0"):
        left_out.add("guidance")
    return tuple((key, row[key]) for key in layout.keys if key in row and key not in left_out)


def rests_on(ledger: Ledger, row: dict[str, str], inputs: list[str]) -> list[str]:
    """Of the inputs of a table's stage, those that a row was computed from.

    A row of one method rests on no other method's files, a solver's row on the teacher's alone, and a row that names its file on that.
    A row whose method no stage knows rests on nothing.
    """
    if row.get("source") in inputs:
        return [row["source"]]
    if "method" not in row:
        return inputs
    owner = "teacher" if row.get("kind") == "teacher" else row["method"]
    owners = {name for path in inputs if (name := owner_of(path)) is not None}
    if owner not in owners or (owner == "teacher" and not _solver_is_known(ledger, row)):
        return []
    return [path for path in inputs if owner_of(path) in (None, owner)]


def owner_of(path: str) -> str | None:
    """The method that a result belongs to, `teacher`, or None for what all share: `results/KIND/OWNER[/...]`."""
    parts = path.split("/")
    if len(parts) < 3 or parts[0] != "results" or parts[1] in ("reference", "classifier", "teacher"):
        return None
    return parts[2].split(".")[0]


def _solver_is_known(ledger: Ledger, row: dict[str, str]) -> bool:
    samplers = (ledger.params.get("teacher_samples") or {}).get("samplers") or {}
    return row["method"] in samplers


def of_json(ledger: Ledger, file: str) -> Iterator[Number]:
    """The values of a metric file or of a reference's file; none where there is no such file, or no JSON in it."""
    try:
        content = json.loads((ledger.folder / file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(content, dict):
        return
    found = content.get("values", {}) if "values" in content else {k: v for k, v in content.items() if isinstance(v, dict)}
    stage = ledger.maker(file)
    sources = tuple(path for path in ledger.inputs(stage) if path in ledger.makers) if stage else ()
    for place, value in leaves(found):
        if not place or not is_number(value):
            continue
        yield Number(file, (("value", "/".join(place[:-1])),), place[-1], repr(value), sources)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file as text; none where there is no such file, or no CSV in it."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{key: text or "" for key, text in row.items() if isinstance(key, str)} for row in csv.DictReader(file)]
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, csv.Error):
        return []


def find(ledger: Ledger, target: str) -> list[Number]:
    """The numbers that `FILE:SELECTOR` names; all of the file without a selector.

    The selector's parts, between commas, each name a row (a method, `nfe=2`, a claim's key) or a column, whose statistic may be left out:
    `fd` is the mean of the table's metric. Raises UserError, naming what there is, if nothing or more than one number fits.
    """
    file, _, selector = target.partition(":")
    layout = layout_of(file)
    known = list(of_table(ledger, file, layout)) if layout else list(of_json(ledger, file)) if file.endswith(".json") else []
    if not selector:
        return known
    if not known:
        raise UserError(f"{file} has no numbers that can be asked one by one; ask for the file alone, or a table or figure's data (.csv)")
    parts = [part.strip() for part in selector.replace("/", "," if layout is None else "/").split(",")]
    chosen = known
    columns: list[str] = []
    for part in parts:
        fitting = [number for number in chosen if _names_row(number, part)]
        if fitting:
            chosen = fitting
        elif column := _column(part, list(dict.fromkeys(number.column for number in known)), ledger, layout):
            columns.append(column)
        else:
            raise UserError(f"{target}: {part!r} is neither a row nor a column of {file}; rows: {_rows_in_words(chosen)}")
    column = columns[-1] if columns else _first_column(ledger, layout, chosen)
    chosen = [number for number in chosen if number.column == column]
    plain = [number for number in chosen if "guidance" not in dict(number.row)]
    if len(chosen) == 1 or len(plain) == 1:
        return chosen if len(chosen) == 1 else plain
    if not chosen:
        raise UserError(f"{target}: that row of {file} has no {column}")
    raise UserError(f"{target} names {len(chosen)} numbers; add one of: {_rows_in_words(chosen)}")


def _names_row(number: Number, part: str) -> bool:
    key, equals, value = part.partition("=")
    if equals:
        return any(name == key and of == value for name, of in number.row)
    return any(part == of or part in of.split("/") for _, of in number.row)


def _column(part: str, columns: list[str], ledger: Ledger, layout: Layout | None) -> str | None:
    """The column that a part of a selector means: by name, by name without `_mean`, or by the metric's kind."""
    metric = str((ledger.params.get("report") or {}).get("metric", ""))
    short = [metric] if metric.startswith(part + "_") else []
    candidates = [part, f"{part}_mean", *short, *(f"{name}_mean" for name in short)]
    starting = [name for name in columns if name.startswith(part)]
    return next((name for name in [*candidates, *starting] if name in columns), None)


def _first_column(ledger: Ledger, layout: Layout | None, chosen: list[Number]) -> str:
    metric = str((ledger.params.get("report") or {}).get("metric", ""))
    columns = [number.column for number in chosen]
    wanted = [layout.first if layout else "", f"{metric}_mean", metric]
    return next((name for name in wanted if name in columns), columns[0])


def _rows_in_words(chosen: list[Number]) -> str:
    rows = dict.fromkeys(",".join(f"{key}={value}" for key, value in number.row) for number in chosen)
    return "; ".join(list(rows)[:12]) + (" ..." if len(rows) > 12 else "")
