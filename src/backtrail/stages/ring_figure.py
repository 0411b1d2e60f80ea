"""`backtrail ring-figure`: the figure of the ring, and DisBack's claims judged on it."""

from backtrail.report.ring_claims import render_ring
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Draw the figure as PNG, SVG and PDF with its data as CSV, and write the table of claims as CSV and Markdown."""
    render_ring()
