"""`backtrail report`: the page that shows everything."""

import click

from backtrail.errors import UserError
from backtrail.ledger.chains import chains
from backtrail.parameters.base import section
from backtrail.parameters.report import Report
from backtrail.report.html import PAGE, render_report
from backtrail.running.stage import stage

# What the page shows, and what the chains on it name by digest; the same as in dvc.yaml, to which a test holds it.
INPUTS = [
    "params.yaml",
    "reports/figures",
    "reports/tables",
    "results/curves",
    "results/metrics",
    "results/reference",
    "data/dataset.safetensors",
    "results/classifier",
    "results/teacher",
    "results/paths",
    "results/mismatch",
    "results/path-samples",
    "results/students",
    "results/samples",
    "results/states",
]


@click.command()
@click.option("--beside", multiple=True, help="Folder of another suite that can be chosen for comparison; with --out. May be repeated.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write the page there, as no result of the pipeline.")
def command(beside: tuple[str, ...], out: str | None) -> None:
    """Write reports/index.html: one self-contained page with every figure, table, verdict, protocol and chain."""
    if out is not None:
        render_report(".", chains("."), beside, out)
    elif beside:
        raise UserError(f"--beside needs --out FILE: {PAGE} is a result of the pipeline and shows its own suite alone")
    else:
        with stage("report", __name__, {"report": section(Report, "report")}, INPUTS, [PAGE]):
            render_report(".", chains("."))
