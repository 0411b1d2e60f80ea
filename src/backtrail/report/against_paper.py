"""The papers' numbers and ours, one row each: tolerance, spread and a verdict, or what a run of it would take."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from backtrail.artifacts import load_yaml
from backtrail.report.collect import Suite, protocols
from backtrail.report.names import metric_label
from backtrail.report.paper import UNKNOWN, Number, paper_numbers
from backtrail.report.tables import FID, NONE, plus_minus

# GPU-hours of each method on each data set: what `backtrail plan` counts in the suite of that data set, all its seeds together, at the rate
# of SFD's published hours (an A100 in half precision). A test holds the file to the suites.
HOURS_FILE = Path(__file__).with_name("estimated_hours.yaml")
TOLERANCE = 0.03  # of the paper's FID: as far as two sets of image seeds and two ports of Inception can lie apart
N_IMAGES = 50_000
REPRODUCED, WITHIN, DIFFERS, INCOMPARABLE, ABSENT = "reproduced", "within spread", "differs", "not comparable", "not run"


@dataclass(frozen=True)
class Comparison:
    """A paper's number with ours: the row of results.csv that ours stands in, or None, and the verdict with what it needs to be read."""

    quoted: Number
    row: int | None
    ours: str
    tolerance: str
    spread: str
    verdict: str
    because: str = ""


def comparisons(suite: Suite, table: pd.DataFrame) -> list[Comparison]:
    """Every number of a paper that is known or that this suite has a row for; those of the suite's own data set first."""
    hours = load_yaml(HOURS_FILE.read_text(encoding="utf-8"))
    order = [suite.data_set, *paper_numbers().data_sets]
    found = [compare(suite, table, number, hours) for number in paper_numbers().numbers if number.fid != UNKNOWN]
    return sorted(found, key=lambda one: order.index(one.quoted.data_set))


def compare(suite: Suite, table: pd.DataFrame, number: Number, hours: dict[str, dict[str, float]]) -> Comparison:
    """One number of a paper against the row of ours with the same data set, method and NFE, sampled without guidance."""
    tolerance = f"±{TOLERANCE * float(number.fid):.2g}"
    same = (table["method"] == number.method) & (table["nfe"] == number.nfe) & (table["trained"] == number.trained)
    if "guidance" in table:
        same &= table["guidance"] == 1.0
    if number.data_set != suite.data_set or not same.any():
        needed = hours.get(number.data_set, {}).get(number.method, hours.get(number.data_set, {}).get("teacher"))
        because = "" if needed is None else f"needs about {needed:,.{1 if needed < 10 else 0}f} GPU-hours"
        return Comparison(number, None, NONE, tolerance, NONE, ABSENT, because)
    i = int(same.to_numpy().argmax())
    row = table.loc[i]
    if f"{FID}_mean" not in table:
        return Comparison(number, i, NONE, tolerance, NONE, INCOMPARABLE, f"we measure {metric_label(suite.report.metric)}, the paper FID")
    ours, std = float(row[f"{FID}_mean"]), float(row[f"{FID}_std"])
    spread = NONE if pd.isna(std) else f"{std:.2g}"
    n_images = int(protocols(suite).set_index("metric").loc[FID, "n_images"])
    if n_images != N_IMAGES:
        because = f"ours is of {n_images:,} images, the paper's of {N_IMAGES:,}"
        return Comparison(number, i, plus_minus(ours, std), tolerance, spread, INCOMPARABLE, because)
    distance = ours - float(number.fid)
    verdict = REPRODUCED if abs(distance) <= TOLERANCE * float(number.fid) else WITHIN if abs(distance) <= 2 * std else DIFFERS
    return Comparison(number, i, plus_minus(ours, std), tolerance, spread, verdict, f"by {distance:+.3g}")


def not_run(suite: Suite, table: pd.DataFrame) -> list[tuple[str, int, str]]:
    """Per data set of the papers: how many of their numbers were not run here, and about how many GPU-hours its suite takes in all."""
    hours, counts = load_yaml(HOURS_FILE.read_text(encoding="utf-8")), dict[str, int]()
    for one in comparisons(suite, table):
        if one.verdict == ABSENT:
            counts[one.quoted.data_set] = counts.get(one.quoted.data_set, 0) + 1
    names = paper_numbers().data_sets
    return [(names[key], n, f"{sum(hours[key].values()):,.0f}" if key in hours else "") for key, n in counts.items()]
