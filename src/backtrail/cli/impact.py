"""`backtrail impact`: what changes if a file is wrong."""

import json
from collections.abc import Iterator
from typing import Any

import click

from backtrail.audit.impact import impact

SHOWN = 3  # rows that are named of each file


@click.command()
@click.argument("target")
@click.option("--all", "whole", is_flag=True, help="Every number with its value; by default a line a file or folder.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
def command(target: str, whole: bool, as_json: bool) -> None:
    """The stages, results and numbers that rest on TARGET: a file or folder, a source file, or `params.yaml:teacher.steps`."""
    found = impact(target)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{target}: {len(found['stages'])} stages, {len(found['files'])} results and {len(found['numbers'])} numbers rest on it")
    kinds: dict[str, list[str]] = {}
    for stage in found["stages"]:
        kinds.setdefault(stage.partition("@")[0], []).append(stage)
    click.echo("stages: " + ", ".join(kind if len(of) == 1 else f"{kind} ({len(of)})" for kind, of in kinds.items()))
    for line in every_number(found) if whole else by_file(found):
        click.echo(f"  {line}")
    if not whole and found["numbers"]:
        click.echo("every number with its value: --all")


def rows(found: dict[str, Any]) -> dict[str, list[str]]:
    """The changed columns, each with its value, by the row's name."""
    of: dict[str, list[str]] = {}
    for number in found["numbers"]:
        row, _, column = number["name"].rpartition(",")
        of.setdefault(row, []).append(f"{column} {number['text']}")
    return of


def every_number(found: dict[str, Any]) -> Iterator[str]:
    """A line a row: its columns with their values."""
    for row, columns in rows(found).items():
        yield f"{row}: {', '.join(columns)}"


def by_file(found: dict[str, Any]) -> Iterator[str]:
    """A line a file of the report with its first rows, and a line a folder of results: how many numbers, in how many rows."""
    files: dict[str, dict[str, int]] = {}
    for row, columns in rows(found).items():
        file, _, name = row.partition(":")
        place = file if file.startswith("reports/") else "/".join(file.split("/")[:2])
        files.setdefault(place, {})[name if place == file else row] = len(columns)
    for file, of in files.items():
        named = "; ".join(list(of)[:SHOWN]) + (" ..." if len(of) > SHOWN else "")
        yield f"{file}: {sum(of.values()):,} numbers in {len(of)} rows{f': {named}' if file.startswith('reports/') else ''}"
