"""`backtrail figures`: the figures of the report."""

from backtrail.report.figures import FIGURES, render_figure
from backtrail.running.stage import Stage, stage
from backtrail.training.progress import progress


@stage
def command(stage: Stage) -> None:
    """Draw every figure as PNG, SVG and PDF, with the data that it shows as CSV, in reports/figures."""
    with progress(len(FIGURES), unit="figure") as tick:
        for done, name in enumerate(FIGURES, start=1):
            render_figure(name)
            tick(done)
