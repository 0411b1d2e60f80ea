"""`backtrail quote`: what Markdown files quote from the results, rendered anew; no number in prose is ever written by hand."""

import sys
from pathlib import Path

import click

from backtrail.artifacts import atomic_write
from backtrail.audit.prose import texts
from backtrail.audit.quotes import Writer, renewed
from backtrail.errors import UserError
from backtrail.layout import LOCK_FILE, PARAMS_FILE
from backtrail.ledger.confined import open_confined
from backtrail.ledger.ledger import Ledger
from backtrail.parameters.base import read
from backtrail.report.quoted import quoted_text, sources_of

TEXTS = Writer(sources_of, quoted_text)
DIFFERS, NOT_FOUND = 1, 2


EXIT_CODES = f"Exit code: {DIFFERS} if --check finds a difference, {NOT_FOUND} if what is quoted is not there."


@click.command(epilog=EXIT_CODES)
@click.option("--check", is_flag=True, help="Write nothing; say what differs.")
def command(check: bool) -> None:
    """Render anew what this suite's Markdown files quote from its results.

    A number stands between `<!-- number FILE:SELECTOR -->` and `<!-- /number -->` and keeps as many digits behind the point as it shows
    (a new mark may be empty: the number comes as its table has it); `<!-- quote claims -->` to `<!-- /quote -->` holds the papers' claims
    by verdict, `<!-- quote axes/NAME -->` what an axis of the ablations says. FILE:SELECTOR as for `backtrail why`. The files are those
    that git tracks, and those beside params.yaml; `backtrail audit` compares them.
    """
    ledger, n_files, n_changes, lost = _ledger(), 0, 0, False
    for file in [name for name, _ in texts(ledger) if not (ledger.folder / name).is_symlink()]:
        text = _read(ledger.folder / file)
        new, changes, faults = renewed(ledger, text, TEXTS)
        for line in changes:
            click.echo(f"{file}: {line}")
        for line in faults:
            click.echo(f"{file}: not there: {line}", err=True)
        lost |= bool(faults)
        n_files, n_changes = n_files + bool(changes), n_changes + len(changes)
        if new != text and not check:
            atomic_write(ledger.folder / file, lambda path, new=new: path.write_bytes(new.encode()))
    found = f"{n_changes} quotation{'s' if n_changes > 1 else ''} in {n_files} file{'s' if n_files > 1 else ''}"
    click.echo(f"{found} {'differ' if check else 'renewed'}" if n_changes else "every quotation is as the results say")
    sys.exit(NOT_FOUND if lost else DIFFERS if check and n_changes else 0)


def _ledger() -> Ledger:
    """The suite's; one without stages where results lie without the ledger of their run."""
    folder = Path()
    return open_confined(folder) if (folder / LOCK_FILE).exists() else Ledger(folder, {}, {}, read(folder / PARAMS_FILE))


def _read(path: Path) -> str:
    """A text with its line ends as they are. Raises UserError if it is not UTF-8: writing it again would lose what it holds."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
