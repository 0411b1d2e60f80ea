"""One number of each model, a line of `dvc metrics show reports/tables/headline.json` and `dvc metrics diff --targets` of the same."""

from pathlib import Path

from backtrail.artifacts import save_json
from backtrail.layout import PARAMS_FILE, TABLES, TEACHER_NAME
from backtrail.parameters.base import read
from backtrail.report.collect import open_suite
from backtrail.report.tables import render_table, results

NAME = "headline"
FILE = f"{TABLES}/{NAME}.json"


def render_table_or_headline(name: str, suite_folder: str | Path = ".") -> None:
    """Write what lies under a name in reports/tables. Raises UserError if there is no such table or if a file that it needs is missing."""
    if name == NAME:
        save_headline(suite_folder)
    else:
        render_table(name, suite_folder)


def save_headline(suite_folder: str | Path = ".") -> None:
    """Write the mean over seeds of `report.metric`: of each student without guidance at the most evaluations that it is trained for, and of
    the teacher by its reference solver, to nine digits as in `results.csv`, which has everything."""
    folder = Path(suite_folder)
    suite = open_suite(folder)
    table, reference = results(suite), read(folder / PARAMS_FILE)["teacher_samples"]["reference"]
    plain = table[(table["guidance"] == 1) & table["trained"]]
    students = plain[plain["kind"] != TEACHER_NAME].sort_values("nfe").groupby("method", sort=False).tail(1).set_index("method")
    rows = {TEACHER_NAME: plain[plain["method"] == reference].iloc[-1]}
    rows |= {method: students.loc[method] for method in suite.methods() if method in students.index}
    save_json(folder / FILE, {name: float(f"{row[f'{suite.report.metric}_mean']:.9g}") for name, row in rows.items()})
