"""`backtrail figure-axis`: one axis of the suite's ablations.

An axis is a job, though it starts a process: it is drawn as soon as its own methods are there, and again only when one of them changes.
"""

from backtrail.report.ablations import render_axis
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Draw an axis of report.axes or report.sampler_axes as PNG, SVG and PDF, with its numbers as CSV and what they say as a sentence."""
    render_axis(stage.declared.item["axis"])
