"""`backtrail ring-figure`: the figure of the ring, and DisBack's claims judged on it."""

from pathlib import Path

import click

from backtrail.artifacts import atomic_write
from backtrail.parameters.base import section
from backtrail.parameters.ring import RingEvaluation, RingLaw
from backtrail.report.ring import draw_ring, open_ring, ring_data
from backtrail.report.ring_claims import claims_table, judge_ring, ring_sentence
from backtrail.report.style import save_figure
from backtrail.report.tables import markdown
from backtrail.running.stage import stage
from backtrail.tables import save_csv

FIGURE, CLAIMS = Path("reports/figures/ring"), Path("reports/tables/claims")


@click.command()
def command() -> None:
    """Draw the figure as PNG, SVG and PDF with its data as CSV, and write the table of claims as CSV and Markdown."""
    inputs = ["results/curves", "results/mismatch", "results/teacher/metrics.json"]
    outputs = [*(f"{FIGURE}.{kind}" for kind in ("png", "svg", "pdf", "csv")), f"{CLAIMS}.csv", f"{CLAIMS}.md"]
    parameters = {"ring": section(RingLaw, "ring"), "evaluation": section(RingEvaluation, "evaluation")}
    with stage("ring-figure", __name__, parameters, inputs, outputs):
        results = open_ring()
        data, claims = ring_data(results), judge_ring(results)
        save_csv(FIGURE.with_suffix(".csv"), data)
        save_figure(lambda: draw_ring(data, ring_sentence(results, claims)), FIGURE)
        save_csv(CLAIMS.with_suffix(".csv"), claims)
        text = markdown(claims_table(results, claims))
        atomic_write(CLAIMS.with_suffix(".md"), lambda file: file.write_text(text))
