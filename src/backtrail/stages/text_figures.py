"""`backtrail text-figures`: the figures of text to images."""

from backtrail.report.text_figures import render_text_figures
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Draw images with their captions, and quality and alignment over evaluations and guidance; each with its data as CSV."""
    render_text_figures()
