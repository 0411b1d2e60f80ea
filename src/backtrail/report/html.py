"""The report as one HTML file that needs nothing else: figures, tables, chains and downloads are inside it, and nothing is fetched."""

import base64
import re
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from backtrail.artifacts import atomic_write
from backtrail.layout import PARAMS_FILE
from backtrail.ledger.chains import Chains
from backtrail.report import page_tables, side_by_side
from backtrail.report.against_paper import not_run
from backtrail.report.chain_view import Book, facts_in_words
from backtrail.report.collect import Suite, open_suite, require
from backtrail.report.figures import FIGURES
from backtrail.report.names import label
from backtrail.report.paper import paper_numbers
from backtrail.report.tables import claims_for_readers, load_results, results_for_readers
from backtrail.report.verdicts import HELD, NOT_HELD, NOT_RUN, UNDECIDED
from backtrail.tables import load_csv

TEMPLATES = Path(__file__).with_name("templates")
PAGE = "reports/index.html"
MEDIA = {"svg": "image/svg+xml", "png": "image/png", "pdf": "application/pdf", "csv": "text/csv"}
# A number of ours, and not that of a figure, table, equation, algorithm or paper of somebody else's.
NUMBER = re.compile(
    r"((?<![\w.])(?<!\bFig\. )(?<!\bTable )(?<!\bEq\. )(?<!\bAlgorithm )(?<!\bAlg\. )(?<!\barXiv )"
    r"[-+±]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w]))"
)
VERDICTS = (HELD, NOT_HELD, UNDECIDED, NOT_RUN)
WIDE = 1050  # pixels; a wider picture gets the whole width of the page


def data_uri(path: Path) -> str:
    """A file's bytes as a `data:` address."""
    return f"data:{MEDIA[path.suffix[1:]]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def png_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the first chunk of a PNG file."""
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width, height


def figure_blocks(suite: Suite, book: Book) -> list[dict[str, Any]]:
    """What the template needs of each figure: picture, caption, downloads, its data as a table, and the chain behind it."""
    blocks = []
    for name, plot in FIGURES.items():
        stem = suite.folder / "reports/figures" / name
        for kind in MEDIA:
            require(stem.with_suffix(f".{kind}"), f"stage `figure` of {name}")
        blocks.append(_block(suite, book, stem, plot.title, plot.caption(load_csv(stem.with_suffix(".csv")))))
    return blocks


def axis_blocks(suite: Suite, book: Book) -> list[dict[str, Any]]:
    """The same of the ablations that have been drawn; what each says, and its caption, stand in a Markdown file beside it."""
    blocks = []
    for name, axis in (suite.report.axes | suite.report.sampler_axes).items():
        stem = suite.folder / "reports/axes" / name
        if all(stem.with_suffix(f".{kind}").is_file() for kind in (*MEDIA, "md")):
            blocks.append(_block(suite, book, stem, axis.label, " ".join(stem.with_suffix(".md").read_text(encoding="utf-8").split())))
    return blocks


def _block(suite: Suite, book: Book, stem: Path, title: str, caption: str) -> dict[str, Any]:
    files = {kind: stem.with_suffix(f".{kind}") for kind in MEDIA}
    data = files["csv"].relative_to(suite.folder).as_posix()
    name = f"{stem.parent.name}-{stem.name}"
    text = pd.read_csv(files["csv"], dtype=str, keep_default_na=False)
    table = page_tables.data_table(book, data, f"data-{name}", f"Data of the figure: {title}", text)
    return {
        "name": name,
        "title": title,
        "caption": caption,
        "uris": {kind: data_uri(path) for kind, path in files.items()},
        "file": stem.name,
        "data": table,
        "source": data,
        "chain": book.anchor(book.inputs(data)),
        "wide": png_size(files["png"])[0] > WIDE,
    }


def linked_numbers(text: str, anchor: str, name: str = "") -> Markup:
    """The text with each number of ours in it a link: to a chain, whose window is called `name`, or to a section of the page."""
    if not anchor:
        return Markup.escape(text)
    link = Markup('<a href="#{}" data-name="{}">{}</a>') if name else Markup('<a href="#{0}">{2}</a>')
    parts = NUMBER.split(text)
    return Markup("").join(link.format(anchor, name, part) if i % 2 else part for i, part in enumerate(parts))


def headline(suite: Suite, claims: pd.DataFrame) -> str:
    """One sentence that says what came out, counted from the table of claims."""
    counts = Counter(claims["verdict"])
    judged = len(claims) - counts[NOT_RUN]
    parts = [f"{counts[verdict]} {verdict}" for verdict in (HELD, NOT_HELD, UNDECIDED) if counts[verdict]]
    found = ", ".join(parts) or "none"
    return f"Of {judged} claims of the papers judged on {suite.data_set} with {len(suite.seeds)} seeds: {found}."


def render_report(
    suite_folder: str | Path = ".", chains: Chains | None = None, beside: Iterable[str | Path] = (), page: str | Path | None = None
) -> None:
    """Write `reports/index.html`, or `page`, from the figures, the tables and the metric files.

    chains: what each number links to; without them the page has no links to chains. beside: folders of other suites whose tables can be
    chosen for comparison. Raises UserError that names the stage to run if a part is missing.
    """
    suite, book = open_suite(suite_folder), Book(chains)
    tables = suite.folder / "reports/tables"
    results = load_results(require(tables / "results.csv", "stage `tables`"))
    claims = load_csv(require(tables / "claims.csv", "stage `tables`"))
    series = [*side_by_side.of_suite(suite), *side_by_side.of_others(beside)]
    parts = {
        "claims": page_tables.claims_table(suite, claims, book),
        "figures": figure_blocks(suite, book),
        "axes": axis_blocks(suite, book),
        "results": page_tables.results_table(suite, results, book),
        "seeds": page_tables.seed_table(suite, book),
        "costs": page_tables.cost_table(suite, book),
        "paper": page_tables.paper_table(suite, results, book),
        "protocol": page_tables.protocol_table(suite, book),
        "chains": book.trees(),
        "files": page_tables.file_table(book),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"linked_numbers": linked_numbers, "facts": facts_in_words}
    text = environment.get_template("index.html").render(
        **parts,
        file_anchor=book.file_anchor,
        title=suite.report.title,
        headline=headline(suite, claims),
        verdicts=[(page_tables.BADGES[verdict], verdict, int((claims["verdict"] == verdict).sum())) for verdict in VERDICTS],
        suite=suite,
        methods=[label(name) for name in suite.families],
        claims_notes=claims_for_readers(suite, claims).notes,
        results_notes=results_for_readers(suite, results).notes,
        claims_not_run=list(claims.loc[claims["verdict"] == NOT_RUN, "text"]),
        sources=paper_numbers().sources,
        parameters=(suite.folder / PARAMS_FILE).read_text(encoding="utf-8"),
        downloads={name: data_uri(tables / f"{name}.csv") for name in ("results", "claims")},
        not_run=not_run(suite, results),
        series=side_by_side.as_json(suite.report.metric, series),
    )
    atomic_write(suite.folder / PAGE if page is None else page, lambda file: file.write_text(text, encoding="utf-8"))
