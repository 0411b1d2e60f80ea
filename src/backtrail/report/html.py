"""The report as one HTML file that needs nothing else: figures, tables and downloads are inside it, and nothing is fetched."""

import base64
import hashlib
import re
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from backtrail.artifacts import atomic_write
from backtrail.parameters.base import PARAMS_FILE
from backtrail.report.claims import HELD, NOT_HELD, NOT_RUN, UNDECIDED
from backtrail.report.collect import Suite, extractor_of, metric_files, open_suite, protocols, quality, require
from backtrail.report.figures import FIGURES
from backtrail.report.paper import UNKNOWN, paper_numbers
from backtrail.report.style import label, metric_label
from backtrail.report.tables import NONE, claims_for_readers, load_results, results_for_readers
from backtrail.tables import load_csv

TEMPLATES = Path(__file__).with_name("templates")
MEDIA = {"svg": "image/svg+xml", "png": "image/png", "pdf": "application/pdf", "csv": "text/csv"}
BADGES = {HELD: "held", NOT_HELD: "nothing", UNDECIDED: "undecided", NOT_RUN: "absent"}
NUMBER = re.compile(r"^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( ± .*| \(untrained\)| \[[A-Z0-9-]+\])?$|^–$|^unknown$")  # noqa: RUF001 (a dash)
DIGEST = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Cell:
    """One cell of an HTML table: its text, the place it links to, its class, and its own anchor."""

    text: str
    link: str = ""
    style: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class HtmlTable:
    """A sortable table: an id, a caption, headings and rows of cells."""

    key: str
    caption: str
    headings: list[str]
    rows: list[list[Cell]]


def cell(value: Any, link: str = "") -> Cell:
    """A cell that is aligned as a number, or set as a digest, if it reads as one."""
    text = str(value)
    return Cell(text, link, "num" if NUMBER.match(text) else "code hash" if DIGEST.match(text) else "")


def data_uri(path: Path) -> str:
    """A file's bytes as a `data:` address."""
    return f"data:{MEDIA[path.suffix[1:]]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def png_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the first chunk of a PNG file."""
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width, height


def frame_table(key: str, caption: str, frame: pd.DataFrame) -> HtmlTable:
    """A data frame whose cells are text already."""
    return HtmlTable(key, caption, [str(name) for name in frame.columns], [[cell(value) for value in row] for row in frame.to_numpy()])


def figure_blocks(suite: Suite) -> list[dict[str, Any]]:
    """What the template needs of each figure: picture, caption, downloads, and its data as a table."""
    blocks = []
    for name, plot in FIGURES.items():
        stem = suite.folder / "reports/figures" / name
        files = {kind: require(stem.with_suffix(f".{kind}"), f"stage `figure` of {name}") for kind in ("svg", "png", "pdf", "csv")}
        uris = {kind: data_uri(path) for kind, path in files.items()}
        text = pd.read_csv(files["csv"], dtype=str, keep_default_na=False)
        data = frame_table(f"data-{name}", f"Data of the figure: {plot.title}", text)
        wide = png_size(files["png"])[0] > 1400
        caption = plot.caption(load_csv(files["csv"]))
        blocks.append({"name": name, "title": plot.title, "caption": caption, "uris": uris, "data": data, "wide": wide})
    return blocks


def source_rows(suite: Suite) -> tuple[list[list[Cell]], dict[str, str]]:
    """The files behind the table of results with their digests, and the anchor of each method's first file."""
    files = []
    for method, seed, path in metric_files(suite):
        files.append(("Teacher" if method == "teacher" else label(method), method, seed, path))
        if method != "teacher":
            files.append((label(method), method, seed, suite.folder / f"results/curves/{method}/seed{seed}.csv"))
    extractors = sorted({extractor_of(metric) for metric in quality(suite)["metric"].unique()})
    files += [("Real against real", "floor", "", suite.folder / f"results/reference/{name}.json") for name in extractors]
    anchors: dict[str, str] = {}
    rows = []
    for name, method, seed, path in files:
        anchor = "" if method in anchors else anchors.setdefault(method, f"source-{len(anchors)}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        file = path.relative_to(suite.folder).as_posix()
        rows.append([Cell(name, anchor=anchor), cell(seed), Cell(file, style="code"), Cell(digest, style="code")])
    return rows, anchors


def results_table(suite: Suite, table: pd.DataFrame, anchors: dict[str, str]) -> HtmlTable:
    """The table of results; each of our numbers links to the files it was computed from."""
    text = results_for_readers(suite, table)
    owners = ["floor", *("teacher" if kind == "teacher" else method for kind, method in zip(table["kind"], table["method"], strict=True))]
    ours = [i >= 3 and "aper" not in heading for i, heading in enumerate(text.headings)]
    rows = [
        [cell(value, f"#{anchors[owner]}" if mine and value not in (NONE, "0") else "") for value, mine in zip(row, ours, strict=True)]
        for owner, row in zip(owners, text.rows, strict=True)
    ]
    return HtmlTable("results", text.title, text.headings, rows)


def claims_table(suite: Suite, table: pd.DataFrame) -> HtmlTable:
    """The table of claims with its verdicts as badges."""
    text = claims_for_readers(suite, table)
    rows = [[Cell(value, style=f"badge {BADGES[value]}") if i == 3 else cell(value) for i, value in enumerate(row)] for row in text.rows]
    return HtmlTable("claims", text.title, text.headings, rows)


def seed_table(suite: Suite) -> HtmlTable:
    """Every measured value, seed by seed."""
    values = quality(suite)
    wide = values.pivot(index=["kind", "method", "nfe", "seed"], columns="metric", values="value").reset_index()
    metrics = sorted(values["metric"].unique(), key=lambda metric: (metric != suite.report.metric, metric))
    rows = [
        [
            cell(label(row["method"])),
            cell(row["nfe"]),
            cell(row["seed"]),
            *(cell(NONE if pd.isna(row[m]) else f"{row[m]:.6g}") for m in metrics),
        ]
        for _, row in wide.iterrows()
    ]
    return HtmlTable("seeds", "Every value, seed by seed", ["Method", "NFE", "Seed", *map(metric_label, metrics)], rows)


def not_run_table(suite: Suite) -> HtmlTable:
    """The papers' student results on data sets that this suite does not run, with the hours the paper spent where it says them."""
    quoted = paper_numbers()
    rows = []
    for number in quoted.numbers:
        if number.data_set != suite.data_set and number.method in suite.families:
            hours = NONE if number.hours is None else f"{number.hours:g}"
            source = "" if number.fid == UNKNOWN else f"{quoted.sources[number.source].reference}, {quoted.sources[number.source].place}"
            rows.append(
                [
                    cell(quoted.data_sets[number.data_set]),
                    cell(label(number.method)),
                    cell(f"{number.nfe}{'' if number.trained else ' (untrained)'}"),
                    cell(number.text),
                    cell(hours),
                    cell(source),
                ]
            )
    headings = ["Data set", "Method", "NFE", "Paper's FID-50k", "Paper's A100 hours", "Read in"]
    return HtmlTable("not-run", "Results of the papers on data sets that this suite does not run", headings, rows)


def headline(suite: Suite, claims: pd.DataFrame) -> str:
    """One sentence that says what came out, counted from the table of claims."""
    counts = Counter(claims["verdict"])
    judged = len(claims) - counts[NOT_RUN]
    parts = [f"{counts[verdict]} {verdict}" for verdict in (HELD, NOT_HELD, UNDECIDED) if counts[verdict]]
    found = ", ".join(parts) or "none"
    return f"Of {judged} claims of the papers judged on {suite.data_set} with {len(suite.seeds)} seeds: {found}."


def render_report(suite_folder: str | Path = ".") -> None:
    """Write `reports/index.html` from the figures, the tables and the metric files.

    Raises UserError that names the stage to run if one of them is missing.
    """
    suite = open_suite(suite_folder)
    tables = suite.folder / "reports/tables"
    results = load_results(require(tables / "results.csv", "stage `table` of results"))
    claims = load_csv(require(tables / "claims.csv", "stage `table` of claims"))
    sources, anchors = source_rows(suite)
    protocol = protocols(suite).fillna("")
    protocol["metric"] = protocol["metric"].map(metric_label)
    protocol.columns = [name.replace("_", " ") for name in protocol.columns]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("index.html").render(
        title=suite.report.title,
        headline=headline(suite, claims),
        verdicts=[(BADGES[verdict], verdict, int((claims["verdict"] == verdict).sum())) for verdict in BADGES],
        suite=suite,
        methods=[label(name) for name in suite.families],
        figures=figure_blocks(suite),
        claims=claims_table(suite, claims),
        claims_notes=claims_for_readers(suite, claims).notes,
        results=results_table(suite, results, anchors),
        results_notes=results_for_readers(suite, results).notes,
        seeds=seed_table(suite),
        protocol=frame_table("protocol", "How each metric was measured", protocol),
        not_run=not_run_table(suite),
        claims_not_run=list(claims.loc[claims["verdict"] == NOT_RUN, "text"]),
        sources=HtmlTable("sources", "Files behind the numbers", ["Of", "Seed", "File", "sha256"], sources),
        parameters=(suite.folder / PARAMS_FILE).read_text(),
        downloads={name: data_uri(require(tables / f"{name}.csv", f"stage `table` of {name}")) for name in ("results", "claims")},
    )
    atomic_write(suite.folder / "reports/index.html", lambda file: file.write_text(page))
