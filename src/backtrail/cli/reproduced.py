"""`backtrail reproduced`: how near this run came to the published results."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from backtrail.audit.published import FILE, NothingPublished, publish
from backtrail.audit.reproduced import EXIT_CODE, FLOAT, OUTSIDE, ROUNDED, SAME, SPREADS, WITHIN, Held, Reproduction, reproduced
from backtrail.errors import UserError
from backtrail.layout import PAGE

SHOWN = 12


CODES = f"{EXIT_CODE} if not, {NothingPublished.exit_code} if there is nothing to compare; any other is an error"


@click.command(epilog=f"Exit code: 0 if all is within the spread and every verdict the same, {CODES}.")
@click.option("--against", default="", metavar="COMMIT|FILE|FOLDER", help="What was published; by default the newest commit with results.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs, with every number that is outside.")
@click.option("--page", "page", type=click.Path(path_type=Path), help="Write a page with every number beside the published one.")
@click.option("--publish", "publishing", is_flag=True, help=f"Write {FILE}, which says where the results here were made, to commit it.")
def command(against: str, as_json: bool, page: Path | None, publishing: bool) -> None:
    """Hold this run's numbers and verdicts against published ones, which another processor never repeats to the last digit."""
    if publishing:
        made = publish(Path())
        click.echo(
            f"{FILE}: made on {' and '.join(made['processors'])} with torch {' and '.join(made['torch'])}; commit it with the tables"
        )
        return
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--page {page}: expected a name that ends in .html, so that no other file is overwritten")
    found = reproduced(".", against)
    click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False) if as_json else "\n".join(in_words(found)))
    if page is not None:
        write_page(found, page)
        click.echo(f"Number by number: {page}", err=as_json)
    sys.exit(found.exit_code)


def write_page(found: Reproduction, page: Path) -> None:
    """Every number beside the published one, those that are farthest first."""
    from backtrail.report.reproduced_page import render_reproduced  # here: with it come the templates

    rows = [_row(one) for near in (OUTSIDE, WITHIN, ROUNDED, SAME) for one in found.of(near)]
    render_reproduced(page, paragraph(found), list(remarks(found)), rows, Path())


def _row(one: Held) -> list[str]:
    std = "" if math.isnan(one.std) else f"{one.std:.3g}"
    return [one.name, one.near, f"{one.published:.9g}", f"{one.here:.9g}", _relative(one) if one.here != one.published else "", std]


def in_words(found: Reproduction) -> Iterator[str]:
    """One paragraph, and a line for each thing that is not as published, a screenful of a kind."""
    yield paragraph(found)
    yield from (f"  {remark}" for remark in remarks(found, SHOWN))
    if Path(PAGE).is_file():
        yield f"The report: {PAGE}"


def paragraph(found: Reproduction) -> str:
    """What was compared, and how near it came."""
    same, rounded, within, outside = (found.of(near) for near in (SAME, ROUNDED, WITHIN, OUTSIDE))
    missing = f", {len(found.missing):,} are missing here" if found.missing else ""
    return (
        f"Compared with {found.published}; this run: {' and '.join(found.here.processors) or 'no record says where'}. Of "
        f"{len(found.numbers) + len(found.missing):,} numbers {len(same):,} are the same to the last digit, {len(rounded):,} within float "
        f"tolerance ({FLOAT:g}), {len(within):,} within the spread over seeds ({SPREADS:g} standard deviations), {len(outside):,} outside "
        f"of it{missing}. Of {found.n_verdicts} verdicts {found.n_verdicts - len(found.changed)} are the same."
    )


def remarks(found: Reproduction, shown: int | None = None) -> Iterator[str]:
    """What is not as published, each in a line; at most `shown` numbers of a kind."""
    if found.unlike:
        yield f"no repetition: {len(found.unlike)} stages ran with other code or parameters (`backtrail diff {found.published.name} .`)"
    yield from _cut([f"outside: {_number(one)}" for one in found.of(OUTSIDE)], shown)
    yield from _cut([f"missing: {name}" for name in found.missing], shown)
    yield from (f"verdict: {one.text}: {one.published} as published, {one.here or 'not judged'} here" for one in found.changed)


def _number(one: Held) -> str:
    relative = f" ({text})" if (text := _relative(one)) else ""
    return f"{one.name}: {one.published:.6g} as published, {one.here:.6g} here{relative}"


def _relative(one: Held) -> str:
    return f"{one.here / one.published - 1:+.2%}" if one.published else ""


def _cut(lines: list[str], shown: int | None) -> Iterator[str]:
    yield from lines[:shown]
    if shown is not None and len(lines) > shown:
        yield f"and {len(lines) - shown:,} more (--json has them)"
