"""`backtrail audit`: every number, held against the bytes it comes from."""

import json
import sys

import click

from backtrail.audit.audit import Audit, audit, counts
from backtrail.audit.findings import EXIT_CODES, MEANINGS
from backtrail.audit.show import findings_in_words

LEVELS = ("hash", "metric", "figure", "stage")
CODES = ", ".join(f"{code} {verdict}" for verdict, code in EXIT_CODES.items() if code)


@click.command(epilog=f"Exit code by the worst verdict: 0 if all is well, {CODES}.")
@click.option("--level", "levels", multiple=True, type=click.Choice(LEVELS), default=["hash"], help="What to do again; may be repeated.")
@click.option("--stage", "stages", multiple=True, help="For metric and stage: only stages of this name (* for any text); may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.option("--all", "everything", is_flag=True, help="Name every number that rests on a finding.")
def command(levels: tuple[str, ...], stages: tuple[str, ...], as_json: bool, everything: bool) -> None:
    """Read every byte again and give each number a verdict.

    hash: bytes against dvc.lock and the records. metric: also every metric from the stored samples, and the tables. figure: also every
    figure, byte by byte. stage: also whole stages, in a folder of their own.
    """
    again = []
    if set(levels) - {"hash"}:
        # Loaded here: reading and hashing bytes needs neither torch nor matplotlib, and little memory.
        from backtrail.audit.recompute import recomputations

        again = recomputations([level for level in LEVELS if level in levels], stages or ("*",))
    done = audit(".", again)
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=2, ensure_ascii=False))
    else:
        _print(done, everything)
    sys.exit(done.exit_code)


def _print(done: Audit, everything: bool) -> None:
    for line in findings_in_words(done, everything):
        click.echo(line)
    found = counts(done.judged)
    click.echo(f"{len(done.judged):,} numbers, {len(done.ledger.stages)} stages, {done.bytes_read:,} bytes read")
    for verdict, meaning in MEANINGS.items():
        if found[verdict]:
            click.echo(f"{found[verdict]:8,} {verdict}: {meaning}")
    documents = counts(done.documents)
    click.echo("pages and pictures: " + ", ".join(f"{n} {verdict}" for verdict, n in documents.items()))
    for note in done.notes:
        click.echo(f"note: {note}")
