"""`backtrail ring-figure`: the figure of the ring, and DisBack's claims judged on it."""

from pathlib import Path

from backtrail import layout
from backtrail.artifacts import atomic_write
from backtrail.report.ring import draw_ring, open_ring, ring_data
from backtrail.report.ring_claims import claims_table, judge_ring, ring_sentence
from backtrail.report.style import save_figure
from backtrail.report.tables import markdown
from backtrail.running.stage import Stage, stage
from backtrail.tables import save_csv

FIGURE, CLAIMS = Path(f"{layout.FIGURES}/ring"), Path(f"{layout.TABLES}/claims")


@stage
def command(stage: Stage) -> None:
    """Draw the figure as PNG, SVG and PDF with its data as CSV, and write the table of claims as CSV and Markdown."""
    results = open_ring()
    data, claims = ring_data(results), judge_ring(results)
    save_csv(FIGURE.with_suffix(".csv"), data)
    save_figure(lambda: draw_ring(data, ring_sentence(results, claims)), FIGURE)
    save_csv(CLAIMS.with_suffix(".csv"), claims)
    text = markdown(claims_table(results, claims))
    atomic_write(CLAIMS.with_suffix(".md"), lambda file: file.write_text(text, encoding="utf-8"))
