"""`backtrail figure`: one figure of the report."""

import click

from backtrail.parameters.base import section
from backtrail.parameters.report import Report
from backtrail.report.figures import FIGURES, render_figure
from backtrail.running.stage import stage

# What each figure is drawn from, for its record: the same as in dvc.yaml, to which a test holds it.
INPUTS = {
    "convergence": ["results/curves", "results/reference"],
    "mismatch": ["results/mismatch"],
    "path": ["results/paths"],
    "nfe": ["results/metrics", "results/reference"],
    "cost": ["results/metrics", "results/curves", "results/reference"],
    "samples": ["data/dataset.safetensors", "results/samples"],
    "trajectory": ["results/states"],
    "degradation": ["results/path-samples"],
}


@click.command()
@click.argument("name", type=click.Choice(list(FIGURES)))
def command(name: str) -> None:
    """Draw a figure as PNG, SVG and PDF, with the data that it shows as CSV, in reports/figures."""
    outputs = [f"reports/figures/{name}.{kind}" for kind in ("png", "svg", "pdf", "csv")]
    with stage(f"figure-{name}", __name__, {"report": section(Report, "report")}, INPUTS[name], outputs):
        render_figure(name)
