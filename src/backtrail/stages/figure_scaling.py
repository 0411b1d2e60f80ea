"""`backtrail figure-scaling`: the figure of a teacher's size and budget."""

from pathlib import Path

from backtrail.layout import FIGURES
from backtrail.parameters.report import Report
from backtrail.parameters.scaling import Scaling
from backtrail.report.scaling import draw_scaling, scaling_data
from backtrail.report.style import save_figure
from backtrail.running.stage import Stage, stage
from backtrail.tables import save_csv


@stage
def command(stage: Stage) -> None:
    """Draw the quality of every size over its budget as PNG, SVG and PDF, with its numbers as CSV."""
    stem = Path(FIGURES) / "scaling"
    data = scaling_data(stage.section(Scaling, "scaling"), stage.value(Report, "report.metric"))
    save_csv(stem.with_suffix(".csv"), data)
    save_figure(lambda: draw_scaling(data), stem)
