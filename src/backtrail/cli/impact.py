"""`backtrail impact`: what changes if a file is wrong."""

import json

import click

from backtrail.audit.impact import impact


@click.command()
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
def command(target: str, as_json: bool) -> None:
    """The stages, results and numbers that rest on TARGET: a file or folder, a source file, or `params.yaml:teacher.steps`."""
    found = impact(target)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{target}: {len(found['stages'])} stages, {len(found['files'])} results and {len(found['numbers'])} numbers rest on it")
    click.echo("stages: " + ", ".join(found["stages"]))
    rows: dict[str, list[str]] = {}
    for number in found["numbers"]:
        row, _, column = number["name"].rpartition(",")
        rows.setdefault(row, []).append(f"{column} {number['text']}")
    for row, columns in rows.items():
        click.echo(f"  {row}: {', '.join(columns)}")
