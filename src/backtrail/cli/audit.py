"""`backtrail audit`: every number, held against the bytes it comes from."""

import contextlib
import fnmatch
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import click

from backtrail.audit.audit import Audit, Recompute, audit, counts
from backtrail.audit.findings import EXIT_CODES, MEANINGS
from backtrail.audit.findings_text import findings_in_words
from backtrail.audit.levels import LEVELS, what_it_proves
from backtrail.audit.plausible import EXIT_CODE
from backtrail.errors import UserError
from backtrail.ledger.ledger import open_ledger

CODES = ", ".join(f"{code} {verdict}" for verdict, code in EXIT_CODES.items() if code) + f", {EXIT_CODE} implausible"


@click.command(epilog=f"Exit code by the worst verdict: 0 if all is well, {CODES}.")
@click.option("--level", "levels", multiple=True, type=click.Choice(LEVELS), default=["hash"], help="What to do again; may be repeated.")
@click.option("--stage", "stages", multiple=True, help="For metric and stage: only stages of this name (* for any text); may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.option("--all", "everything", is_flag=True, help="Name every number that rests on a finding.")
def command(levels: tuple[str, ...], stages: tuple[str, ...], as_json: bool, everything: bool) -> None:
    """Read every byte again and give each number a verdict.

    hash: bytes against dvc.lock and the records. metric: also every metric from the stored samples, and the tables. figure: also every
    figure, byte by byte. stage: also whole stages, in a folder of their own: it executes the suite's own code, the others nothing of it.
    """
    check_patterns(stages)
    done = audit(".", recomputations(levels, stages or ("*",)), claims())
    if as_json:
        click.echo(json.dumps(done.to_json() | {"levels": list(levels)}, indent=2, ensure_ascii=False))
    else:
        _print(done, levels, everything)
    sys.exit(done.exit_code)


def check_patterns(patterns: tuple[str, ...], folder: str | Path = ".") -> None:
    """Raises UserError if one of them fits no stage of the suite: an audit of nothing would look like one that found nothing."""
    names = list(open_ledger(folder).stages) if patterns else []
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"--stage {pattern} fits no stage of this suite; stages are called {', '.join(names[-3:])}, ...")


def claims() -> list[str]:
    """The keys of the claims that a suite's table should have, as the report knows them."""
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):  # as below
        from backtrail.report.claims import CLAIMS
    return [claim.key for claim in CLAIMS]


def recomputations(levels: tuple[str, ...], patterns: tuple[str, ...], folder: str | Path = ".") -> list[Recompute]:
    """What `audit` does again at these levels, for stages whose name fits one of the patterns. Reading and hashing loads no torch."""
    if not set(levels) - {"hash"}:
        return []
    # matplotlib reads `matplotlibrc` of the folder that it is loaded in, and what stands there may name a module to import.
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        from backtrail.audit import recompute, rerun
        from backtrail.cli.renderers import renderers

    if "stage" in levels:
        click.echo(f"backtrail: {rerun.WARNING}", err=True)
    drawn = renderers(folder)
    by_level = {
        "metric": [recompute.metrics, partial(recompute.tables, renderers=drawn)],
        "figure": [partial(recompute.figures, renderers=drawn)],
        "stage": [rerun.stages],
    }
    again = [of for level in LEVELS if level in levels for of in by_level.get(level, [])]
    return [partial(of, patterns=patterns) for of in again]


def _print(done: Audit, levels: tuple[str, ...], everything: bool) -> None:
    for line in findings_in_words(done, everything):
        click.echo(line)
    found = counts(done.judged)
    click.echo(f"{len(done.judged):,} numbers, {len(done.ledger.stages)} stages, {done.bytes_read:,} bytes read")
    for verdict, meaning in MEANINGS.items():
        if found[verdict]:
            click.echo(f"{found[verdict]:8,} {verdict}: {meaning}")
    documents = counts(done.documents)
    click.echo("pages and pictures: " + ", ".join(f"{n} {verdict}" for verdict, n in documents.items()))
    if done.suspicions:
        click.echo(f"hard to believe, and no proof ({len(done.suspicions)}):")
    for one in done.suspicions:
        click.echo(f"  implausible: {one.message}")
    for note in done.notes:
        click.echo(f"note: {note}")
    click.echo("what this shows:")
    n_again = sum(" run again in " in note for note in done.notes)
    for line in what_it_proves(levels, n_again, sum(not stage.makes_code for stage in done.ledger.stages.values())):
        click.echo(f"  {line}")
