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
from backtrail.cli.quote import TEXTS
from backtrail.errors import UserError
from backtrail.ledger.confined import open_confined
from backtrail.report.statements import STATEMENTS

CODES = ", ".join(f"{code} {verdict}" for verdict, code in EXIT_CODES.items() if code) + f", {EXIT_CODE} implausible"


@click.command(epilog=f"Exit code by the worst verdict: 0 if all is well, {CODES}.")
@click.option("--level", "levels", multiple=True, type=click.Choice(LEVELS), default=["hash"], help="What to do again; may be repeated.")
@click.option(
    "--stage", "stages", multiple=True, help="For the levels above hash: only stages of this name (* for any text); may be repeated."
)
@click.option("--sample", type=click.IntRange(1), help="For stage: run this many again, drawn by how many numbers rest on each.")
@click.option("--seed", type=click.IntRange(0), help="The seed of that draw; by default one that nobody can foresee. It is printed.")
@click.option("--json", "form", flag_value="json", help="Everything, for programs.")
@click.option("--all", "form", flag_value="all", help="Name every number that rests on a finding.")
def command(levels: tuple[str, ...], stages: tuple[str, ...], sample: int | None, seed: int | None, form: str | None) -> None:
    """Read every byte again and give each number a verdict.

    hash: bytes against dvc.lock and the records. metric: also every metric from the stored samples, and the tables. figure: also every
    figure, byte by byte. stage: also whole stages, in a folder of their own: it executes the suite's own code, the others nothing of it.
    """
    if (seed is not None and sample is None) or (sample is not None and "stage" not in levels):
        raise click.UsageError("--seed goes with --sample, and --sample with --level stage")
    check_patterns(stages)
    if stages and set(levels) == {"hash"}:
        raise click.UsageError("--stage goes with --level metric, figure or stage: the level hash reads every stage")
    done = audit(".", recomputations(levels, stages or ("*",), sample=sample, seed=seed), list(STATEMENTS), TEXTS)
    if form == "json":
        click.echo(json.dumps(done.to_json() | {"levels": list(levels)}, indent=2))
    else:
        _print(done, levels, form == "all")
    sys.exit(done.exit_code)


def check_patterns(patterns: tuple[str, ...], folder: str | Path = ".") -> None:
    """Raises UserError if one of them fits no stage of the suite: an audit of nothing would look like one that found nothing."""
    names = list(open_confined(folder).stages) if patterns else []
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"--stage {pattern} fits no stage of this suite; stages are called {', '.join(names[-3:])}, ...")


def recomputations(
    levels: tuple[str, ...], patterns: tuple[str, ...], folder: str | Path = ".", sample: int | None = None, seed: int | None = None
) -> list[Recompute]:
    """What `audit` does again at these levels, for stages whose name fits one of the patterns. Reading and hashing loads no torch.

    sample: how many stages the stage level draws, instead of taking all; seed: of that draw.
    """
    if not set(levels) - {"hash"}:
        return []
    # matplotlib reads `matplotlibrc` of the folder that it is loaded in, and what stands there may name a module to import.
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        from backtrail.audit import recompute, rerun, spot
        from backtrail.cli.renderers import renderers

    if "stage" in levels:
        click.echo(f"backtrail: {rerun.WARNING}", err=True)
    drawn = renderers(folder)
    by_level = {
        "metric": [recompute.metrics, partial(recompute.tables, renderers=drawn)],
        "figure": [partial(recompute.figures, renderers=drawn)],
        "stage": [rerun.stages if sample is None else partial(spot.spot_checks, n=sample, seed=seed)],
    }
    again = [of for level in LEVELS if level in levels for of in by_level.get(level, [])]
    return [partial(of, patterns=patterns) for of in again]


def plain(line: str) -> str:
    """A line as a terminal may show it: what a hostile ledger says must not move the cursor, clear the screen or begin a line."""
    return line if line.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def _print(done: Audit, levels: tuple[str, ...], everything: bool) -> None:
    for line in findings_in_words(done, everything):
        click.echo(plain(line))
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
        click.echo(plain(f"  implausible: {one.message}"))
    for note in done.notes:
        click.echo(plain(f"note: {note}"))
    click.echo("what this shows:")
    for line in what_it_proves(levels, done.stages_again, sum(not stage.keeps_books for stage in done.ledger.stages.values())):
        click.echo(f"  {line}")
