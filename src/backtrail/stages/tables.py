"""`backtrail tables`: the table of results and the table of claims."""

import click

from backtrail.parameters.base import section
from backtrail.parameters.report import Report
from backtrail.report.tables import TABLES, render_table
from backtrail.running.stage import stage

INPUTS = ["results/metrics", "results/curves", "results/mismatch", "results/paths", "results/reference"]


@click.command()
def command() -> None:
    """Write each table as CSV, LaTeX and Markdown in reports/tables."""
    outputs = [f"reports/tables/{name}.{kind}" for name in TABLES for kind in ("csv", "tex", "md")]
    with stage("tables", __name__, {"report": section(Report, "report")}, INPUTS, outputs):
        for name in TABLES:
            render_table(name)
