"""Texts that prose quotes whole, written from the suite's tables: `<!-- quote claims -->...<!-- /quote -->` in a Markdown file.

`claims` is the list of the papers' claims by verdict, `claims/FOLDER` a table of them beside the verdicts of the suite in a folder below
this one, `axes/NAME` what an axis of the ablations says.
"""

from pathlib import Path

from backtrail.errors import UserError
from backtrail.layout import AXES, PARAMS_FILE, TABLES
from backtrail.ledger.numbers import read_rows

CLAIMS = f"{TABLES}/claims.csv"
# As in `verdicts.py`, which loads pandas; an audit that reads bytes alone does without.
VERDICTS = ("held", "not held", "undecided at this size", "not run")
EXPLAINED = {
    "undecided at this size": " (seeds: how many would decide it, if the effect is the one seen; "
    "*against*: its weakest condition is against it)"
}


def sources_of(name: str) -> tuple[str, ...]:
    """The files that a text is written from. Raises UserError if there is no such text."""
    if name == "claims":
        return (CLAIMS,)
    kind, _, rest = name.partition("/")
    if kind == "axes" and rest and "/" not in rest:
        return (f"{AXES}/{rest}.csv", PARAMS_FILE)
    if kind == "claims" and rest and not {"", ".", ".."} & {*rest.split("/")}:
        return (CLAIMS, f"{rest}/{CLAIMS}")
    raise UserError(f"there is no text {name} to quote; known: claims, claims/FOLDER, axes/NAME")


def quoted_text(name: str, folder: str | Path = ".") -> str:
    """A text, from the files of `sources_of` in a suite's folder. Raises UserError if one of them is not there or not as it should be."""
    sources_of(name)
    kind, _, rest = name.partition("/")
    if kind == "axes":
        return _axis(rest, Path(folder))
    return claims_beside(Path(folder), rest) if rest else claims_list(Path(folder))


def _claims(folder: Path) -> list[dict[str, str]]:
    rows = read_rows(folder / CLAIMS)
    if not rows or not {"claim", "text", "quantity", "verdict", "n_seeds", "seeds_to_decide", "weakest_margin"} <= set(rows[0]):
        raise UserError(f"{folder / CLAIMS} is missing or no table of claims: `dvc repro tables`, or `git checkout -- {CLAIMS}`")
    return rows


def claims_beside(folder: Path, other: str) -> str:
    """The claims of two suites as a Markdown table: the verdict of each, with its number of seeds."""
    names = ["here", f"in `{other}`"]
    of_both = [{(row["claim"], row["quantity"]): row for row in _claims(place)} for place in (folder, folder / other)]
    lines = [f"| claim | {' | '.join(names)} |", "|---|---|---|"]
    for key in dict.fromkeys(key for of_one in of_both for key in of_one):
        found = [of_one.get(key) for of_one in of_both]
        text = next(row["text"] for row in found if row)
        verdicts = [f"{row['verdict']} (n = {row['n_seeds']})" if row else "" for row in found]
        lines.append(f"| {text} ({key[1]}) | {' | '.join(verdicts)} |")
    return "\n".join(lines)


def claims_list(folder: Path) -> str:
    """The claims as a Markdown list, by verdict."""
    rows, lines = _claims(folder), []
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
