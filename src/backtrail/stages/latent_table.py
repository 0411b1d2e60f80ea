"""`backtrail latent-table`: the table of a published latent teacher and its students."""

from backtrail.report.latent import render_latent
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Write the table as CSV and as Markdown, a column for each protocol by its whole name."""
    render_latent()
