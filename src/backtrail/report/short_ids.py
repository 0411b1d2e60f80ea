"""Short ids, by which a row of a LaTeX table or a figure names what it was made from: `backtrail why ID` tells the rest.

A short id is the head of the sha256 of a file that a ledger names (`audit/ids.py`). It is a matter of content alone, so that a
table or a figure has the same bytes on every run; the record with its times, machine and commit is found by it.
"""

from pathlib import Path

import pandas as pd

from backtrail import layout
from backtrail.artifacts import file_digest
from backtrail.report.collect import Suite, extractor_of, metric_files

DIGITS = 12


def short_id(path: str | Path) -> str:
    """The short id of a file."""
    return file_digest(path)[:DIGITS]


def of_results(suite: Suite, table: pd.DataFrame) -> list[str]:
    """For each row of the table of results as readers see it, the ids of the metric files it was computed from; the floor comes first."""
    files: dict[str, list[Path]] = {}
    for method, _, path in metric_files(suite):
        files.setdefault(method, []).append(path)
    measured = {extractor_of(name.removesuffix("_mean")) for name in table.columns if name.endswith("_mean")}
    floor = [suite.folder / layout.reference_values(name) for name in sorted(measured)]
    owners = ["teacher" if kind == "teacher" else method for kind, method in zip(table["kind"], table["method"], strict=True)]
    return [" ".join(map(short_id, paths)) for paths in (floor, *(files[owner] for owner in owners))]
