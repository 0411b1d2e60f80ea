"""The report as one HTML file that needs nothing else: figures, tables, chains and downloads are inside it, and nothing is fetched."""

import base64
import re
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from backtrail import layout
from backtrail.artifacts import atomic_write
from backtrail.layout import PAGE, PARAMS_FILE
from backtrail.ledger.chains import Chains
from backtrail.report import page_tables, side_by_side
from backtrail.report.against_paper import ABSENT, DIFFERS, INCOMPARABLE, REPRODUCED, TOLERANCE, WITHIN, not_run
from backtrail.report.chain_view import Book, facts_in_words
from backtrail.report.collect import Suite, open_suite, require
from backtrail.report.dag import Picture, kinds, picture
from backtrail.report.figures import FIGURES
from backtrail.report.html_parts import environment
from backtrail.report.names import label
from backtrail.report.paper import paper_numbers
from backtrail.report.tables import claims_for_readers, load_results, results_for_readers
from backtrail.report.verdicts import ALPHA, HELD, MIN_SEEDS, NOT_HELD, NOT_RUN, UNDECIDED
from backtrail.tables import load_csv

PAPERS = (
    ("DisBack", "2408.15991"),
    ("SFD and SFD-v", "2409.19681"),
    ("Diff-Instruct", "2305.18455"),
)  # name, number at arXiv
MEDIA = {"svg": "image/svg+xml", "png": "image/png", "pdf": "application/pdf", "csv": "text/csv"}
# A number of ours, and not that of a figure, table, equation, algorithm or paper of somebody else's.
NUMBER = re.compile(
    r"((?<![\w.])(?<!\bFig\. )(?<!\bTable )(?<!\bEq\. )(?<!\bAlgorithm )(?<!\bAlg\. )(?<!\barXiv )"
    r"[-+±]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w]))"
)
ARXIV = re.compile(r"\barXiv (\d{4}\.\d{5})(?:v\d+)?\b")
VERDICTS = {
    HELD: f"The subject is better in every condition that is named: the {1 - ALPHA:.0%} interval of its smallest margin lies above 0.",
    NOT_HELD: "The subject is worse in one of its conditions at least: that interval lies below 0.",
    UNDECIDED: f"The interval holds 0, or there are fewer than {MIN_SEEDS} seeds: this run can neither confirm nor refute it.",
    NOT_RUN: "This suite has no results that the claim is about.",
}
COMPARED = {
    REPRODUCED: f"Ours lies within the tolerance, {TOLERANCE:.0%} of the paper's FID.",
    WITHIN: "Beyond the tolerance, but no further than two standard deviations of ours over seeds.",
    DIFFERS: "Beyond both.",
    INCOMPARABLE: "We have a number of this method and NFE on this data set, which is no FID of the paper's protocol.",
    ABSENT: "We have no number to hold against it; the hours are an estimate for all seeds on an A100, sampling and measuring included.",
}
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
        stem = suite.folder / layout.FIGURES / name
        for kind in MEDIA:
            require(stem.with_suffix(f".{kind}"), f"stage `figure` of {name}")
        blocks.append(_block(suite, book, stem, plot.title, plot.caption(load_csv(stem.with_suffix(".csv")))))
    return blocks


def axis_blocks(suite: Suite, book: Book) -> list[dict[str, Any]]:
    """The same of the ablations that have been drawn; what each says, and its caption, stand in a Markdown file beside it."""
    blocks = []
    for name, axis in (suite.report.axes | suite.report.sampler_axes).items():
        stem = suite.folder / layout.AXES / name
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


def linked_papers(text: str) -> Markup:
    """The text with each number of arXiv in it a link to the paper."""
    return Markup(ARXIV.sub(r'<a href="https://arxiv.org/abs/\1" rel="noreferrer">\g<0></a>', str(Markup.escape(text))))


def pipeline_of(chains: Chains | None) -> Picture:
    """What figures and tables rest on, by kinds of stages; nothing where the page is made without chains."""
    if chains is None:
        return picture(*kinds([]))
    ledger = chains.ledger
    shown = [path for path in ledger.makers if path.startswith("reports/") and path != PAGE]
    below = set().union(*(ledger.closure(path) for path in shown))
    return picture(*kinds(stage for stage in ledger.in_order() if f"stage:{stage.name}" in below))


def explained(verdict: str, sentence: str) -> dict[str, Any]:
    """A verdict, its badge, and what it means."""
    return {"verdict": verdict, "style": page_tables.BADGES[verdict], "sentence": sentence}


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
    tables = suite.folder / layout.TABLES
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
    templates = environment()
    templates.filters |= {"linked_numbers": linked_numbers, "linked_papers": linked_papers, "facts": facts_in_words}
    text = templates.get_template("index.html").render(
        **parts,
        file_anchor=book.file_anchor,
        title=suite.report.title,
        headline=headline(suite, claims),
        papers=[{"name": name, "arxiv": arxiv} for name, arxiv in PAPERS],
        verdicts=[explained(verdict, of) | {"count": int((claims["verdict"] == verdict).sum())} for verdict, of in VERDICTS.items()],
        comparisons=[explained(verdict, of) for verdict, of in COMPARED.items()],
        pipeline_of=pipeline_of(chains),
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
