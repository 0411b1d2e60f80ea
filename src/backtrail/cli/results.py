"""`backtrail results`: what was measured, in a screen, where `dvc metrics show` has a column for every value of every file."""

import csv
from collections.abc import Iterator
from pathlib import Path

import click

from backtrail.errors import UserError
from backtrail.laid_down import declared_stages
from backtrail.layout import PARAMS_FILE, TABLES
from backtrail.ledger.numbers import read_rows
from backtrail.parameters.base import read
from backtrail.parameters.reader import shortened

TABLE, OF_TEXT, OF_LATENTS = (f"{TABLES}/{name}.csv" for name in ("results", "text", "latent"))
CONFLICT = ("<<<<<<<", "|||||||", "=======", ">>>>>>>")  # what git writes into a file that two sides have changed
HEADINGS = ("method", "NFE", "guidance", "seeds", "cost (F)")


@click.command()
@click.argument("metrics", nargs=-1)
def command(metrics: tuple[str, ...]) -> None:
    """Print the mean of METRICS over seeds, and their standard deviation, of each method and number of evaluations.

    By default that of `report.metric`; others as they are called in reports/tables/results.csv: `kid_classifier`, or `kid` for all of them.
    A suite of text to images has reports/tables/text.csv, by default its distance and the accuracy of garment and colour; one of a
    published latent teacher reports/tables/latent.csv, by default all of it.
    """
    name = next((of for of in (OF_TEXT, OF_LATENTS) if Path(of).is_file()), TABLE)
    rows = read_rows(Path(name))
    if not rows:
        if not any(name in stage.outs for stage in declared_stages()):
            raise UserError("this suite makes no table of methods: its README and its figures say what came out")
        raise UserError(f"{name} is missing or empty: `dvc repro`, or get it from git")
    lines = list(_lines(name))
    known = [column.removesuffix("_mean") for column in rows[0] if column.endswith("_mean")]
    wanted = list(metrics) or (known if name == OF_LATENTS else _usual(name))
    found = {of: [metric for metric in known if metric == of or metric.startswith(f"{of}_")] for of in wanted}
    if lacking := [of for of, metrics_of in found.items() if not metrics_of]:
        raise UserError(f"{name} has no metric {', '.join(lacking)}; it has {', '.join(known)}")
    shown = [metric for metrics_of in found.values() for metric in metrics_of]
    for line, row in zip(lines, rows, strict=True):
        _check_numbers(row, ["cost_F", *(f"{metric}_{part}" for metric in shown for part in ("mean", "std"))], f"{name}, line {line}")
    table = [[*HEADINGS, *shown], *([*_row(row), *(_value(row, metric) for metric in shown)] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        cells = [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        click.echo("  ".join(cells))


def _lines(table: str) -> Iterator[int]:
    """The line of each of the rows that `read_rows` has. Raises UserError for one that a conflict or a cut has left without its cells."""
    with open(table, newline="", encoding="utf-8") as file:
        reader, n_cells = csv.reader(file), 0
        for cells in filter(None, reader):
            place = f"{table}, line {reader.line_num}"
            if cells[0].startswith(CONFLICT):
                raise UserError(f"{place} is a mark of git's, {cells[0][:7]}, that both sides have changed the file: resolve the conflict")
            if n_cells and len(cells) != n_cells:
                raise UserError(f"{place} has {len(cells)} cells, and the table {n_cells} columns: `dvc repro`, or get it from git")
            if n_cells:
                yield reader.line_num
            n_cells = n_cells or len(cells)


def _check_numbers(row: dict[str, str], columns: list[str], place: str) -> None:
    for column in columns:
        if text := row.get(column, ""):
            try:
                float(text)
            except ValueError:
                raise UserError(f"{place}: {column} is {shortened(text)}, not a number: `dvc repro`, or get it from git") from None


def _usual(table: str) -> list[str]:
    """What is shown where nothing is asked for."""
    if table == OF_TEXT:
        return ["fd", "pair_accuracy"]
    return [str((read(Path(PARAMS_FILE)).get("report") or {}).get("metric", ""))]


def _row(row: dict[str, str]) -> list[str]:
    untrained = " (untrained)" if row.get("trained") == "False" else ""
    return [f"{row['method']}{untrained}", row["nfe"], row["guidance"], row["n_seeds"], _number(row.get("cost_F", ""))]


def _value(row: dict[str, str], name: str) -> str:
    mean, std = (_number(row.get(f"{name}_{part}", "")) for part in ("mean", "std"))
    return f"{mean} ± {std}" if std else mean


def _number(text: str) -> str:
    """To four digits, without a power of ten; nothing for an empty cell."""
    if not text:
        return ""
    value = float(text)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
