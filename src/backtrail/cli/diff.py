"""`backtrail diff`: where two runs part."""

import json
from typing import Any

import click

from backtrail.audit.compare import compare

SHOWN = 20


@click.command()
@click.argument("first")
@click.argument("second", default=".")
@click.option("--json", "as_json", is_flag=True, help="The same for programs, with every number.")
def command(first: str, second: str, as_json: bool) -> None:
    """The first link at which the results of FIRST and SECOND part, and why.

    Each is a suite's folder (`.`, `suites/cifar10`), a git revision of this suite (`HEAD~3`, a tag), or a record
    (`results/records/teacher.json`).
    """
    found = compare(first, second)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found["parted"]:
        shares_none = not found.get("same") and (found.get("only_first") or found.get("only_second"))
        click.echo(f"{first} and {second} have {'no stage in common' if shares_none else 'the same results'}")
    for reasons, stages in by_reasons(found["parted"]).items():
        click.echo(f"{', '.join(stages)} {'is' if len(stages) == 1 else 'are'} where they part:")
        code = [reason for reason in reasons if reason.startswith("code: ")][SHOWN:]
        for reason in reasons:
            if reason not in code:
                click.echo(f"  {reason}")
        if code:
            click.echo(f"  and {len(code)} more files of code (--json has them)")
    for key, words in (("following", "differ because of that"), ("only_first", f"only in {first}"), ("only_second", f"only in {second}")):
        if found.get(key):
            click.echo(f"{words}: {', '.join(found[key])}")
    for number in found["numbers"][:SHOWN]:
        click.echo(f"  {number['file']} {number['value']}: {number['first']!r} / {number['second']!r}")
    if len(found["numbers"]) > SHOWN:
        click.echo(f"  and {len(found['numbers']) - SHOWN} more numbers (--json has them)")


def by_reasons(parted: list[dict[str, Any]]) -> dict[tuple[str, ...], list[str]]:
    """The stages that part for the same reasons, together: another processor is one thing, however many stages ran on it."""
    found: dict[tuple[str, ...], list[str]] = {}
    for part in parted:
        found.setdefault(tuple(part["reasons"]), []).append(part["stage"])
    return found
