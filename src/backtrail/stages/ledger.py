"""`backtrail ledger`: the records of all stages in one file that git keeps."""

import click

from backtrail.ledger.fingerprints import check_code_file
from backtrail.ledger.gathered import gather


@click.command("ledger")
def command() -> None:
    """Write results/ledger.json: what every record says, so that a clone without data can be audited. It leaves no record itself."""
    check_code_file("ledger")
    gather()
