"""Texts that prose quotes whole, written from the suite's tables: `<!-- quote claims -->...<!-- /quote -->` in a Markdown file.

`claims` is the list of the papers' claims by verdict, `axes/NAME` what an axis of the ablations says.
"""

from pathlib import Path

from backtrail.errors import UserError
from backtrail.layout import AXES, PARAMS_FILE, TABLES
from backtrail.ledger.numbers import read_rows

CLAIMS = f"{TABLES}/claims.csv"
# As in `verdicts.py`, which loads pandas; an audit that reads bytes alone does without.
VERDICTS = ("held", "not held", "undecided at this size", "not run")
EXPLAINED = {
    "undecided at this size": " (seeds: how many would decide it, if the effect is the one seen; *against*: in its weakest condition)"
}


def sources_of(name: str) -> tuple[str, ...]:
    """The files that a text is written from. Raises UserError if there is no such text."""
    if name == "claims":
        return (CLAIMS,)
    folder, _, axis = name.partition("/")
    if folder == "axes" and axis and "/" not in axis:
        return (f"{AXES}/{axis}.csv", PARAMS_FILE)
    raise UserError(f"there is no text {name} to quote; known: claims, axes/NAME")


def quoted_text(name: str, folder: str | Path = ".") -> str:
    """A text, from the files of `sources_of` in a suite's folder. Raises UserError if one of them is not there or not as it should be."""
    sources_of(name)
    return claims_list(Path(folder)) if name == "claims" else _axis(name.partition("/")[2], Path(folder))


def claims_list(folder: Path) -> str:
    """The claims as a Markdown list, by verdict."""
    rows = read_rows(folder / CLAIMS)
    if not rows or not {"text", "quantity", "verdict", "seeds_to_decide", "weakest_margin"} <= set(rows[0]):
        raise UserError(f"{folder / CLAIMS} is missing or no table of claims: `dvc repro tables`, or `git checkout -- {CLAIMS}`")
    lines = []
    for verdict in [*VERDICTS, *sorted({row["verdict"] for row in rows} - {*VERDICTS})]:
        claims: dict[str, list[str]] = {}
        for row in (row for row in rows if row["verdict"] == verdict):
            claims.setdefault(row["text"], []).append(_told(row))
        if claims:
            lines += [f"- {verdict}{EXPLAINED.get(verdict, '')}:", *(f"  - {text} ({'; '.join(told)})" for text, told in claims.items())]
    return "\n".join(lines)


def _told(row: dict[str, str]) -> str:
    """A claim's quantity, and of one that is undecided the seeds that would decide it and the side on which it leans."""
    needed, told = row["seeds_to_decide"], []
    if row["verdict"] in EXPLAINED:
        told += [f"{needed} seeds"] if needed.isdecimal() else []
        told += ["*against*"] if row["weakest_margin"].startswith("-") else []
    return row["quantity"] + (f": {', '.join(told)}" if told else "")


def _axis(name: str, folder: Path) -> str:
    from backtrail.parameters.report import Axis  # here: with these comes pandas
    from backtrail.report.axis_text import axis_sentence, sampler_axis_sentence
    from backtrail.report.collect import open_suite
    from backtrail.tables import load_csv

    report = open_suite(folder).report
    axis, data = (report.axes | report.sampler_axes).get(name), load_csv(folder / f"{AXES}/{name}.csv")
    if axis is None:
        raise UserError(f"report has no axis {name}; known: {', '.join(report.axes | report.sampler_axes) or 'none'}")
    try:
        return axis_sentence(axis, data) if isinstance(axis, Axis) else sampler_axis_sentence(axis, data)
    except LookupError as error:
        raise UserError(f"{folder / AXES / name}.csv does not fit report.axes.{name} ({error}): run stage figure-axis@{name}") from None
