"""`backtrail report`: the page that shows everything."""

from backtrail.ledger.chains import chains
from backtrail.report.html import render_report
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Write reports/index.html: one self-contained page with every figure, table, verdict, protocol and chain."""
    render_report(".", chains("."))
