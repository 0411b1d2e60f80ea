"""`backtrail figure-axis`: one axis of the suite's ablations."""

import click

from backtrail.parameters.base import section
from backtrail.parameters.report import Report
from backtrail.report.axes import render_axis
from backtrail.running.stage import stage

ENDS = ["results/curves", "results/reference"]
SAMPLES = ["results/metrics/teacher.json", "results/reference"]


@click.command()
@click.argument("name")
def command(name: str) -> None:
    """Draw an axis of report.axes or report.sampler_axes as PNG, SVG and PDF, with its numbers as CSV and what they say as a sentence."""
    report = section(Report, "report")
    kind, inputs = ("sampler-axis", SAMPLES) if name in report.sampler_axes else ("axis", ENDS)
    parameters = {"axis": report.sampler_axes.get(name) or report.axes.get(name)}
    outputs = [f"reports/axes/{name}.{ending}" for ending in ("png", "svg", "pdf", "csv", "md")]
    with stage(f"figure-{kind}@{name}", __name__, parameters, inputs, outputs):
        render_axis(name)
