"""`backtrail text-table`: the table of text to images."""

from backtrail.report.text import render_text
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Write quality and alignment of teacher and students by evaluations and guidance, with the floor, as CSV and Markdown."""
    render_text()
