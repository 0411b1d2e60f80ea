"""`backtrail report`: the page that shows everything."""

import click

from backtrail.cli.stage import stage
from backtrail.parameters.base import section
from backtrail.parameters.report import Report
from backtrail.report.html import render_report


@click.command()
def command() -> None:
    """Write reports/index.html: one self-contained page with every figure, table, verdict and protocol."""
    with stage("report", __name__, {"report": section(Report, "report")}, ["reports/figures", "reports/tables"], ["reports/index.html"]):
        render_report()
