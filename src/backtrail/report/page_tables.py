"""The tables of the HTML page: cells of text, and for each number the chain that it links to."""

import re
from collections.abc import Sequence

import pandas as pd

from backtrail import layout
from backtrail.layout import PARAMS_FILE
from backtrail.ledger.numbers import Number
from backtrail.parameters.base import read
from backtrail.report.against_paper import ABSENT, DIFFERS, INCOMPARABLE, REPRODUCED, WITHIN, comparisons
from backtrail.report.chain_view import Book
from backtrail.report.collect import Suite, curves, extractor_of, metric_files, protocols, quality
from backtrail.report.html_parts import Cell, HtmlTable, cell
from backtrail.report.names import label, metric_label
from backtrail.report.paper import paper_numbers
from backtrail.report.tables import CLAIM_HEADINGS, NONE, claims_for_readers, metric_order, plus_minus, results_for_readers
from backtrail.report.verdicts import HELD, NOT_HELD, NOT_RUN, UNDECIDED

BADGES = {
    HELD: "held", NOT_HELD: "nothing", UNDECIDED: "undecided", NOT_RUN: "absent",
    REPRODUCED: "held", WITHIN: "held", DIFFERS: "nothing", INCOMPARABLE: "undecided", ABSENT: "absent",
}  # fmt: skip


def number_cell(book: Book, text: str, number: Number | None, seeds: str = "", metric: str = "") -> Cell:
    """A cell that links to its number's chain; plain text where nothing is known of it. A measured value's chain begins with its file."""
    sources = () if number is None else (number.file,) if number.file.endswith(".json") else number.sources
    anchor = book.anchor(sources) if text != NONE else ""
    if number is None or not anchor:
        return cell(text)
    return Cell(text, f"#{anchor}", cell(text).style, "", number.name, number.text, seeds, metric)


def badge(verdict: str, link: str = "", name: str = "") -> Cell:
    return Cell(verdict, link, f"badge {BADGES[verdict]}", name=name, exact=verdict if name else "")


def data_table(book: Book, file: str, key: str, caption: str, frame: pd.DataFrame) -> HtmlTable:
    """A CSV file as it stands (cells are text), each number in it with its chain."""
    numbers = book.rows(file) or [{}] * len(frame)
    rows = [
        [number_cell(book, str(text), found.get(str(column))) for column, text in zip(frame.columns, row, strict=True)]
        for row, found in zip(frame.to_numpy(), numbers, strict=True)
    ]
    return HtmlTable(key, caption, [str(name) for name in frame.columns], rows)


def results_table(suite: Suite, table: pd.DataFrame, book: Book) -> HtmlTable:
    """The table of results; each of our numbers links to its chain, each of a paper's to its source."""
    text, values = results_for_readers(suite, table), quality(suite)
    columns = [_column_of(heading, metric_order(suite, values)) for heading in text.headings]
    numbers = book.rows(f"{layout.TABLES}/results.csv") or [{}] * len(table)
    rows = [[_floor_cell(book, value, column) for value, column in zip(text.rows[0], columns, strict=True)]]
    for (_, row), shown, found in zip(table.iterrows(), text.rows[1:], numbers, strict=True):
        same = values[(values["method"] == row["method"]) & (values["nfe"] == row["nfe"])]
        if "guidance" in row:
            same = same[same["guidance"] == row["guidance"]]
        rows.append([_result_cell(book, value, column, found, same) for value, column in zip(shown, columns, strict=True)])
    return HtmlTable("results", text.title, text.headings, rows)


def _column_of(heading: str, metrics: Sequence[str]) -> str:
    """The column of results.csv that a heading of the table for readers shows; empty for what is no number of ours."""
    fixed = {"Seeds": "n_seeds", "Cost (F)": "cost_F"}
    means = {f"{metric_label(metric)} {arrow}": f"{metric}_mean" for metric in metrics for arrow in "↑↓"}
    return (fixed | means | {f"Lowest {metric_label(metric)}": f"{metric}_min" for metric in metrics}).get(heading, "")


def _floor_cell(book: Book, text: str, column: str) -> Cell:
    metric = column.removesuffix("_mean")
    if metric == column or text == NONE:
        return cell(text)
    file = layout.reference_values(extractor_of(metric))
    return number_cell(book, text, book.values(file).get(f"floor,{metric}"), metric=metric)


def _result_cell(book: Book, text: str, column: str, found: dict[str, Number], values: pd.DataFrame) -> Cell:
    if tag := re.search(r"\[([A-Z0-9-]+)\]$", text):
        return cell(text, f"#paper-{tag[1]}")
    metric = re.sub(r"_(mean|min)$", "", column)
    mine = values[values["metric"] == metric]
    seeds = "; ".join(f"seed {row.seed}: {row.value!r}" for row in mine.itertuples()) if len(mine) > 1 else ""
    return number_cell(book, text, found.get(column), seeds, metric if len(mine) else "")


def claims_table(suite: Suite, table: pd.DataFrame, book: Book) -> HtmlTable:
    """The table of claims with its verdicts as badges."""
    text = claims_for_readers(suite, table)
    numbers = book.rows(f"{layout.TABLES}/claims.csv") or [{}] * len(table)
    at = text.headings.index("Verdict")  # goes beside the claim: on a telephone these two are what is in sight
    order = [0, at, *(n for n in range(1, len(text.headings)) if n != at)]
    rows = []
    for shown, found in zip(text.rows, numbers, strict=True):
        cells = [number_cell(book, value, found.get(column)) for value, column in zip(shown, CLAIM_HEADINGS.values(), strict=True)]
        cells[at] = badge(shown[at], cells[at].link, cells[at].name)
        rows.append([cells[n] for n in order])
    return HtmlTable("claims", text.title, [text.headings[n] for n in order], rows)


def seed_table(suite: Suite, book: Book) -> HtmlTable:
    """Every measured value, seed by seed, with the file that it stands in."""
    metrics = metric_order(suite, quality(suite))
    rows = []
    for method, seed, path in metric_files(suite):
        numbers = book.values(path.relative_to(suite.folder).as_posix())
        mine = quality(suite, [(method, seed, path)])
        for (name, nfe, guidance), group in mine.groupby(["method", "nfe", "guidance"], sort=False):
            measured = group.set_index("metric")["value"]
            source = name if method == "teacher" else "student" if guidance == 1.0 else f"student-w{guidance:g}"
            cells = [
                number_cell(book, f"{measured[m]:.6g}" if m in measured else NONE, numbers.get(f"{source}/nfe{nfe},{m}"), metric=m)
                for m in metrics
            ]
            rows.append([cell(label(name)), cell(nfe), cell(NONE if guidance == 1.0 else f"{guidance:g}"), cell(seed), *cells])
    headings = ["Method", "NFE", "Guidance", "Seed", *map(metric_label, metrics)]
    return HtmlTable("seeds", "Every value, seed by seed", headings, rows)


def cost_table(suite: Suite, book: Book) -> HtmlTable:
    """What each method's students cost, in forwards of the network, mean over seeds."""
    parameters = read(suite.folder / PARAMS_FILE)
    sections = [parameters.get(name) or {} for name in ("score_distillation", "trajectory_distillation")]
    sections += [(parameters.get(name) or {}).get("methods", {}) for name in ("started_score_distillation", "second_stage")]
    batches = {method: (p or {}).get("batch") for section in sections for method, p in section.items()}
    hours = {number.method: number.hours for number in paper_numbers().numbers if number.data_set == suite.data_set and number.hours}
    rows = []
    for method in suite.methods():
        files = [layout.curve(method, seed) for seed in suite.seeds]
        per_seed = curves(suite, [method]).groupby("seed")
        last, first = per_seed.last(), per_seed.first()
        images = last["cost"] * batches[method] if batches.get(method) else pd.Series(dtype=float)
        shown = [last["update"], last["cost"], first["cost"], images]
        cells = [_cost_cell(book, files, values) for values in shown]
        paper = NONE if method not in hours else f"{hours[method]:g}"
        rows.append([cell(label(method)), cell(len(suite.seeds)), *cells, cell(paper)])
    headings = ["Method", "Seeds", "Updates", "Cost (F)", "of it recording (F)", "Forwards of one image", "Paper's A100 hours"]
    return HtmlTable("costs", "What the students cost, mean over seeds", headings, rows)


def _cost_cell(book: Book, files: list[str], values: "pd.Series[float]") -> Cell:
    text = NONE if values.empty else plus_minus(values.mean(), values.std()) if values.mean() < 1e6 else f"{values.mean():.3g}"
    anchor = book.anchor(files)
    exact = "; ".join(f"seed {seed}: {value:,.10g}" for seed, value in values.items())
    return Cell(text, f"#{anchor}", "num", "", files[0], exact) if anchor and not values.empty else cell(text)


def paper_table(suite: Suite, table: pd.DataFrame, book: Book) -> HtmlTable:
    """The papers' numbers beside ours, with tolerance, spread and verdict."""
    quoted, rows = paper_numbers(), []
    numbers = book.rows(f"{layout.TABLES}/results.csv") or [{}] * len(table)
    for one in comparisons(suite, table):
        number = one.quoted
        ours = cell(one.ours) if one.row is None else number_cell(book, one.ours, numbers[one.row].get("fid_inception_mean"))
        hours = NONE if number.hours is None else f"{number.hours:g}"
        nfe = f"{number.nfe}{'' if number.trained else ' (untrained)'}"
        rows.append([
            cell(quoted.data_sets[number.data_set]), cell(label(number.method)), cell(nfe), cell(number.text, f"#paper-{number.source}"),
            ours, cell(one.tolerance), cell(one.spread), badge(one.verdict), cell(one.because), cell(hours),
        ])  # fmt: skip
    headings = ["Data set", "Method", "NFE", "Paper's FID-50k", "Ours", "Tolerance", "Our spread", "Verdict", "Why", "Paper's A100 hours"]
    return HtmlTable("paper", "The papers' numbers and ours", headings, rows)


def protocol_table(suite: Suite, book: Book) -> HtmlTable:
    """How each metric was measured; its numbers rest on the metric files that say so."""
    frame = protocols(suite).fillna("")
    anchor = book.anchor(path.relative_to(suite.folder).as_posix() for _, _, path in metric_files(suite))
    rows = []
    for _, row in frame.iterrows():
        metric = str(row["metric"])
        cells = [cell(value, f"#{anchor}" if anchor and str(value).isdigit() else "") for value in row.iloc[1:]]
        rows.append([cell(metric_label(metric), anchor=f"protocol-{metric}"), *cells])
    headings = [str(name).replace("_", " ") for name in frame.columns]
    return HtmlTable("protocol", "How each metric was measured", headings, rows)


def file_table(book: Book) -> HtmlTable:
    """Every file in a chain, with its whole digest and the stage that made it."""
    rows = [
        [Cell(link.path, style="code", anchor=anchor), cell(link.stage.name if link.stage else "from outside"), cell(link.digest or NONE)]
        for anchor, link in book.files()
    ]
    return HtmlTable("files", "Files in the chains", ["File", "Made by stage", "sha256"], rows)
