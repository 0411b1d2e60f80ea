"""`backtrail tables`: the table of results and the table of claims."""

from backtrail.report.headline import NAME, render_table_or_headline
from backtrail.report.tables import TABLES
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Write each table as CSV, LaTeX and Markdown in reports/tables, and a number of each model for DVC's metrics."""
    for name in (*TABLES, NAME):
        render_table_or_headline(name)
