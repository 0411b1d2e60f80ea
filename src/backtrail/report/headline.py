"""One number of each model, a line of `dvc metrics show reports/tables/headline.json` and `dvc metrics diff --targets` of the same."""

from pathlib import Path

from backtrail.artifacts import save_json
from backtrail.layout import PARAMS_FILE, TABLES, TEACHER_NAME
from backtrail.parameters.base import read
from backtrail.report.collect import open_suite
from backtrail.report.tables import load_results

FILE = f"{TABLES}/headline.json"


def save_headline(suite_folder: str | Path = ".") -> None:
    """Write the mean over seeds of `report.metric`: of each student without guidance at the most evaluations that it is trained for, and
    of the teacher by its reference solver. The whole of it is in `results.csv`."""
    folder = Path(suite_folder)
    suite, table = open_suite(folder), load_results(folder / TABLES / "results.csv")
    reference = read(folder / PARAMS_FILE)["teacher_samples"]["reference"]
    plain = table[(table["guidance"] == 1) & table["trained"]]
    students = plain[plain["kind"] != TEACHER_NAME].sort_values("nfe").groupby("method", sort=False).tail(1).set_index("method")
    rows = {TEACHER_NAME: plain[plain["method"] == reference].iloc[-1]}
    rows |= {method: students.loc[method] for method in suite.methods() if method in students.index}
    column = f"{suite.report.metric}_mean"
    save_json(folder / FILE, {name: float(row[column]) for name, row in rows.items()})
