"""The report's renderers, as the audit takes them: this room alone knows both."""

import logging
from pathlib import Path

from backtrail.audit.recompute import Renderers
from backtrail.layout import AXES, FIGURES, PAGE, PARAMS_FILE, TABLES
from backtrail.ledger.chains import chains
from backtrail.parameters.base import read
from backtrail.report.ablations import render_axis
from backtrail.report.figures import render_figure
from backtrail.report.headline import render_table_or_headline
from backtrail.report.html import render_report
from backtrail.report.latent import render_latent
from backtrail.report.latent_figures import render_latent_figures
from backtrail.report.ring_claims import render_ring
from backtrail.report.run_page import RUN_PAGE, render_run
from backtrail.report.text import render_text
from backtrail.report.text_figures import render_text_figures


def renderers(folder: str | Path) -> Renderers:
    """Those of the suite in `folder`: a ring has figures and tables of its own, as latent teachers have, and no page."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph that a PDF holds
    values = read(Path(folder) / PARAMS_FILE)
    figure, table = render_figure, render_table_or_headline
    of_their_own = {
        "ring": (render_ring, render_ring),
        "text": (render_text_figures, render_text),
        "latent": (render_latent_figures, render_latent),
    }
    for kind, (figures, tables) in of_their_own.items():
        if kind in values:
            figure, table = (lambda name, place, of=of: of(place) for of in (figures, tables))
    pages = {PAGE: lambda place: render_report(place, chains(place)), RUN_PAGE: render_run}
    return Renderers({FIGURES: figure, TABLES: table, AXES: render_axis}, pages)
