"""The report's renderers, as the audit takes them: this room alone knows both."""

import logging
from pathlib import Path

from backtrail.audit.recompute import Renderers
from backtrail.layout import AXES, FIGURES, PARAMS_FILE, TABLES
from backtrail.ledger.chains import chains
from backtrail.parameters.base import read
from backtrail.report.ablations import render_axis
from backtrail.report.figures import render_figure
from backtrail.report.html import render_report
from backtrail.report.ring_claims import render_ring
from backtrail.report.tables import render_table
from backtrail.report.text import render_text


def renderers(folder: str | Path) -> Renderers:
    """Those of the suite in `folder`: a ring has a figure and a table of its own, text to images a table, and neither has a page."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph that a PDF holds
    values = read(Path(folder) / PARAMS_FILE)
    own = render_ring if "ring" in values else render_text if "text" in values else None
    figure = render_figure if own is None else lambda name, place: own(place)
    table = render_table if own is None else lambda name, place: own(place)
    return Renderers({FIGURES: figure, TABLES: table, AXES: render_axis}, lambda place: render_report(place, chains(place)))
