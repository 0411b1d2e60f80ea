"""`backtrail ledger`: the records of all stages in one file that git keeps, and as a page."""

import click

from backtrail.ledger.fingerprints import check_code_file
from backtrail.ledger.gathered import gather
from backtrail.report.run_page import render_run


@click.command("ledger")
def command() -> None:
    """Write results/ledger.json: what every record says, so that a clone without data can be audited; and reports/run.html, which shows
    when, where and for how long each stage ran. It leaves no record itself."""
    check_code_file("ledger")
    gather()
    render_run()
