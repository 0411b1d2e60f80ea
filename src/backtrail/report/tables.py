"""The table of results and the table of claims, each as CSV (all digits), Markdown and LaTeX."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from backtrail import layout
from backtrail.artifacts import atomic_write
from backtrail.errors import UserError
from backtrail.report.claims import judge_all
from backtrail.report.collect import Suite, costs, extractor_of, floor, of_metric, open_suite, quality
from backtrail.report.names import higher_is_better, label, metric_label
from backtrail.report.paper import UNKNOWN, Number, PaperNumbers, paper_numbers
from backtrail.report.short_ids import of_results, short_id
from backtrail.report.verdicts import MOST_SEEDS, RULE
from backtrail.tables import load_csv, save_csv

QUOTED = ("cifar10", "imagenet64")  # data sets whose papers' numbers stand beside every suite's
FID = "fid_inception"  # the only metric of ours that a paper's FID can be held against
BEST = f"{FID}_best"  # of several samplings, as the papers report it; taken where there are several
NONE = "–"  # noqa: RUF001 (a dash)


@dataclass(frozen=True)
class Table:
    """A table for readers: title, headings, rows of text, and notes under it."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    notes: list[str]


def results(suite: Suite) -> pd.DataFrame:
    """One row per method, NFE and guidance: mean, std and min over seeds of each metric, cost (F), the papers' FID, our verdict.

    Std is the sample standard deviation over seeds, empty for one seed. `paper_fid50k_*` is empty where no such number is listed.
    """
    values, quoted = quality(suite), paper_numbers()
    of_metric(values, suite.report.metric)
    keys = ["kind", "method", "nfe", "guidance", "trained"]
    wide = values.groupby([*keys, "metric"], sort=False)["value"].agg(["mean", "std", "min"]).unstack("metric")
    wide.columns = [f"{metric}_{statistic}" for statistic, metric in wide.columns]
    metrics = metric_order(suite, values)
    table = wide[[f"{metric}_{statistic}" for metric in metrics for statistic in ("mean", "std", "min")]]
    seeds = values.groupby(keys, sort=False)["seed"].nunique().rename("n_seeds")
    table = pd.concat([seeds, table], axis=1).reset_index()
    order = {method: i for i, method in enumerate(values["method"].unique())}
    table = table.sort_values(
        ["method", "nfe", "guidance"], key=lambda column: column.map(order) if column.name == "method" else column, ignore_index=True
    )
    spent = costs(suite).groupby("method")["cost"].mean()
    table.insert(
        6, "cost_F", [0.0 if kind == "teacher" else spent[method] for kind, method in zip(table["kind"], table["method"], strict=True)]
    )
    return pd.concat([table, paper_columns(table, suite, quoted)], axis=1)


def load_results(path: Path) -> pd.DataFrame:
    """Read `results.csv` back; the papers' columns stay text, as they were written."""
    papers = [name for name in load_csv(path).columns if name.startswith("paper_")]
    return pd.read_csv(path, dtype=dict.fromkeys(papers, str)).fillna(dict.fromkeys(papers, ""))


def metric_order(suite: Suite, values: pd.DataFrame) -> list[str]:
    """The table metric first, then the others by name."""
    return sorted(values["metric"].unique(), key=lambda metric: (metric != suite.report.metric, metric))


def quoted_data_sets(suite: Suite, quoted: PaperNumbers) -> list[str]:
    """Data sets of which the papers' numbers are shown: the suite's own, if a paper has it, and those of the main tables."""
    own = [suite.data_set] if suite.data_set in quoted.data_sets else []
    return own + [name for name in QUOTED if name not in own]


def paper_columns(table: pd.DataFrame, suite: Suite, quoted: PaperNumbers) -> pd.DataFrame:
    """The papers' FID-50k per data set with its source tag, and a verdict per row."""
    columns: dict[str, list[str]] = {}
    for data_set in quoted_data_sets(suite, quoted):
        found = [quoted_number(quoted, row, data_set) for row in table.itertuples()]
        columns[f"paper_fid50k_{data_set}"] = ["" if number is None else number.text for number in found]
        columns[f"paper_source_{data_set}"] = ["" if number is None or number.fid == UNKNOWN else number.source for number in found]
    own = [quoted_number(quoted, row, suite.data_set) for row in table.itertuples()]
    columns["verdict"] = [against_paper(number, row) for number, (_, row) in zip(own, table.iterrows(), strict=True)]
    return pd.DataFrame(columns)


def quoted_number(quoted: PaperNumbers, row: Any, data_set: str) -> Number | None:
    """The paper's number for a row of the results; none is quoted for a student or solver under guidance."""
    return quoted.find(row.method, row.nfe, data_set, row.trained) if row.guidance == 1 else None


def against_paper(number: Number | None, row: pd.Series) -> str:
    """Our FID against the paper's, where both are FID in Inception features on one data set; two standard deviations decide."""
    if number is None or number.fid == UNKNOWN:
        return "no paper number for this data set"
    ours = BEST if f"{BEST}_mean" in row else FID
    if f"{ours}_mean" not in row:
        return "not comparable: another metric"
    distance, spread = row[f"{ours}_mean"] - number.fid, row[f"{ours}_std"]
    if row["n_seeds"] < 2:
        return f"differs by {distance:+.3g}, one seed"
    return f"within spread ({distance:+.3g})" if abs(distance) <= 2 * spread else f"differs by {distance:+.3g}"


def short(value: float) -> str:
    """Three significant digits; a dash where there is no value."""
    return NONE if pd.isna(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def plus_minus(mean: float, std: float) -> str:
    """Mean ± standard deviation, both to the second significant digit of the latter; the mean alone where there is one seed."""
    if pd.isna(std) or std == 0:
        return short(mean)
    decimals = max(0, 1 - math.floor(math.log10(std)))
    return f"{mean:,.{decimals}f} ± {std:,.{decimals}f}"


def results_for_readers(suite: Suite, table: pd.DataFrame) -> Table:
    """The table of results with rounded numbers, the real-against-real floor as its first row.

    Shown are the metrics in the features of the table metric, and the Frechet distances in others; the CSV has them all.
    """
    quoted = paper_numbers()
    data_sets = quoted_data_sets(suite, quoted)
    measured = [name.removesuffix("_mean") for name in table.columns if name.endswith("_mean")]
    metrics = [m for m in measured if m.startswith(("fd_", "fid_")) or extractor_of(m) == extractor_of(suite.report.metric)]
    arrows = [f"{metric_label(m)} {'↑' if higher_is_better(m) else '↓'}" for m in metrics]
    headings = ["Method", "NFE", "Seeds", arrows[0], f"Lowest {metric_label(metrics[0])}"]
    headings += [f"Paper's FID-50k, {quoted.data_sets[name]}" for name in data_sets]
    if own := suite.data_set in quoted.data_sets:
        headings.append("Against the paper")
    headings += ["Cost (F)", *arrows[1:]]
    floors = [short(floor(suite, metric)) for metric in metrics]
    rows = [["Real against real (floor)", NONE, NONE, floors[0], NONE, *[NONE] * (len(data_sets) + own), NONE, *floors[1:]]]
    for _, row in table.iterrows():
        ours = [plus_minus(row[f"{m}_mean"], row[f"{m}_std"]) for m in metrics]
        cells = [label(row["method"]), evaluations(row), str(row["n_seeds"])]
        cells += [ours[0], short(row[f"{metrics[0]}_min"]), *(quoted_cell(row, name) for name in data_sets), *[row["verdict"]] * own]
        rows.append([*cells, short(row["cost_F"]), *ours[1:]])
    return Table(f"Results on {suite.data_set}", headings, rows, results_notes(suite, quoted, table))


def evaluations(row: pd.Series) -> str:
    """The NFE of a row, with what is special about it."""
    guidance = "" if row["guidance"] == 1 else f" (w = {row['guidance']:g})"
    return f"{row['nfe']}{guidance}{'' if row['trained'] else ' (untrained)'}"


def quoted_cell(row: pd.Series, data_set: str) -> str:
    """A paper's FID with the tag of its source, `unknown`, or a dash."""
    fid, source = row[f"paper_fid50k_{data_set}"], row[f"paper_source_{data_set}"]
    return f"{fid} [{source}]" if source else fid or NONE


def results_notes(suite: Suite, quoted: PaperNumbers, table: pd.DataFrame) -> list[str]:
    """What a reader must know before comparing two cells."""
    tags = sorted({tag for name in quoted_data_sets(suite, quoted) for tag in table[f"paper_source_{name}"] if tag})
    comparable = suite.data_set in quoted.data_sets and f"{FID}_mean" in table.columns
    notes = [
        "Mean ± standard deviation over training seeds; the teacher's solvers sample one model. ↓ lower is better, ↑ higher is better.",
        "Cost: network forwards on one batch spent on fine-tuning (a forward counts 1, forward and backward 3), recording included.",
        f"{NONE}: no such value. unknown: the paper may report it, but no source for it was available.",
    ]
    if (table["guidance"] != 1).any():
        notes.append("w: weight of classifier-free guidance, 1 where none is named; its two branches are two evaluations.")
    if not comparable:
        notes.append(
            "The papers' numbers are Inception FID with 50,000 samples on the data set named; they are NOT comparable with "
            f"{metric_label(suite.report.metric)} on {suite.data_set} and are shown for the order of the methods alone."
        )
    return notes + [f"[{tag}] {quoted.sources[tag].reference}, {quoted.sources[tag].place}." for tag in tags]


CLAIM_HEADINGS = {
    "Claim": "",
    "Source": "",
    "Measured in": "",
    "Verdict": "verdict",
    "Conditions for / against / all": "n_conditions",
    "Weakest condition": "weakest_ours",
    "Margin there": "weakest_margin",
    "Interval of the smallest margin": "low",
    "Effect size": "effect_size",
    "Seeds": "n_seeds",
    "Seeds to decide": "seeds_to_decide",
}  # heading -> the column of claims.csv whose number stands under it


def claims_for_readers(suite: Suite, table: pd.DataFrame) -> Table:
    """The table of claims in words and rounded numbers."""
    rows = []
    for _, row in table.iterrows():
        head = [row["text"], row["source"], row["quantity"], row["verdict"]]
        rows.append([*head, *([NONE] * (len(CLAIM_HEADINGS) - len(head)) if pd.isna(row["n_conditions"]) else _evidence(row))])
    return Table(f"Claims of the papers on {suite.data_set}", list(CLAIM_HEADINGS), rows, [RULE])


def _evidence(row: pd.Series) -> list[str]:
    """The cells behind a verdict."""
    needed = row["seeds_to_decide"]
    return [
        f"{row['n_for']:.0f} / {row['n_against']:.0f} / {row['n_conditions']:.0f}",
        f"{row['weakest_condition']}: {short(row['weakest_ours'])} against {short(row['weakest_other'])}",
        plus_minus(row["weakest_margin"], row["weakest_margin_std"]),
        f"{short(row['low'])} to {short(row['high'])} ({row['level']:.1%})" if math.isfinite(row["low"]) else NONE,
        short(row["effect_size"]),
        f"{row['n_seeds']:.0f}",
        NONE if pd.isna(needed) else f"> {MOST_SEEDS:,}" if math.isinf(needed) else f"{needed:,.0f}",
    ]


def markdown(table: Table) -> str:
    """A Markdown table with its notes as a list. Pipes, brackets and angle brackets in cells stand for themselves."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(_markdown_text(cell) for cell in cells) + " |"

    body = [line(table.headings), "|" + " --- |" * len(table.headings), *(line(row) for row in table.rows)]
    return "\n".join([f"# {_markdown_text(table.title)}", "", *body, "", *(f"- {_markdown_text(note)}" for note in table.notes)]) + "\n"


def _markdown_text(text: str) -> str:
    for mark in "\\`*_|<>[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def latex(table: Table, short_ids: Sequence[str] = ()) -> str:
    """A `tabular` with rules (package booktabs) in a `table`, the notes as a small paragraph under it.

    short_ids: for each row those of what it was made from, which stand behind it as a comment.
    """

    def line(cells: list[str]) -> str:
        return " & ".join(_latex_text(cell) for cell in cells) + r" \\"

    comments = [f" % from {of_row}" for of_row in short_ids] or [""] * len(table.rows)
    columns = "l" + "r" * (len(table.headings) - 1) if table.title.startswith("Results") else "l" * len(table.headings)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx}; `backtrail why ID` tells where a row with `% from ID ...` comes from",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_text(table.title)}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            line(table.headings),
            r"\midrule",
            *(line(row) + comment for row, comment in zip(table.rows, comments, strict=True)),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\medskip\footnotesize",
            *(_latex_text(note) + r"\par" for note in table.notes),
            r"\end{table}",
            "",
        ]
    )


LATEX_MARKS = {
    **{mark: f"\\{mark}" for mark in "{}$&%#_"},
    **{mark: f"{{{mark}}}" for mark in "[]"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"},
    **{"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", NONE: "--"},
}


def _latex_text(text: str) -> str:
    return "".join(LATEX_MARKS.get(mark, mark) for mark in " ".join(text.split()))


TABLES: dict[str, tuple[Callable[[Suite], pd.DataFrame], Callable[[Suite, pd.DataFrame], Table]]] = {
    "results": (results, results_for_readers),
    "claims": (judge_all, claims_for_readers),
}


def render_table(name: str, suite_folder: str | Path = ".") -> None:
    """Write `reports/tables/{name}.csv`, `.md` and `.tex`.

    Raises UserError if there is no such table or if a file that it needs is missing.
    """
    if name not in TABLES:
        raise UserError(f"there is no table {name}; known: {', '.join(TABLES)}")
    suite, stem = open_suite(suite_folder), Path(suite_folder) / layout.TABLES / name
    compute, for_readers = TABLES[name]
    data = compute(suite)
    text = for_readers(suite, data)
    save_csv(stem.with_suffix(".csv"), data)
    short_ids = of_results(suite, data) if name == "results" else [short_id(stem.with_suffix(".csv"))] * len(text.rows)
    for ending, form in ((".md", markdown(text)), (".tex", latex(text, short_ids))):
        atomic_write(stem.with_suffix(ending), lambda file, form=form: file.write_text(form, encoding="utf-8"))
