"""What the page needs to set seeds and suites side by side: every value by series (a seed, the mean over seeds, another suite's mean)."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from backtrail import layout
from backtrail.layout import PARAMS_FILE
from backtrail.parameters.base import read
from backtrail.report.collect import Suite, quality, require
from backtrail.report.names import LOOKS, label, metric_label
from backtrail.report.tables import load_results


def row_name(row: Any) -> str:
    """How a row is called in every series: method, NFE, and guidance where there is one."""
    guidance = "" if row.guidance == 1.0 else f", guidance {row.guidance:g}"
    return f"{label(row.method)}, NFE {row.nfe}{guidance}{'' if row.trained else ' (untrained)'}"


def of_suite(suite: Suite) -> list[dict[str, Any]]:
    """The mean over seeds, and each seed: name, and value by metric by row."""
    values = quality(suite).dropna(subset="value")
    keys = [name for name in values.columns if name not in ("seed", "value")]
    mean = values.groupby(keys, sort=False)["value"].mean().reset_index()
    per_seed = [_series(f"{suite.data_set}, seed {seed}", values[values["seed"] == seed]) for seed in suite.seeds]
    return [_series(f"{suite.data_set}, mean over seeds", mean), *(per_seed if len(per_seed) > 1 else [])]


def of_table(name: str, table: pd.DataFrame) -> dict[str, Any]:
    """The means of a results.csv."""
    found: dict[str, dict[str, float]] = {}
    for row in table.assign(guidance=table.get("guidance", 1.0)).itertuples():
        means = {metric.removesuffix("_mean"): getattr(row, metric) for metric in table.columns if metric.endswith("_mean")}
        found[row_name(row)] = {metric: value for metric, value in means.items() if not pd.isna(value)}
    return {"name": name, "rows": found}


def _series(name: str, values: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, dict[str, float]] = {}
    for row in values.itertuples():
        found.setdefault(row_name(row), {})[row.metric] = row.value
    return {"name": name, "rows": found}


def of_others(folders: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The means of other suites, from their tables."""
    found = []
    for folder in map(Path, folders):
        name = read(folder / PARAMS_FILE).get("suite", folder.name)
        path = require(folder / layout.TABLES / "results.csv", "stage `tables` of that suite")
        found.append(of_table(f"{name}, mean over seeds", load_results(path)))
    return found


def as_json(chosen: str, series: list[dict[str, Any]]) -> str:
    """The series for the page's script, with the labels of methods and metrics and the metric to begin with; safe in a script element."""
    metrics = sorted({metric for one in series for row in one["rows"].values() for metric in row})
    labels = {name: look.label for name, look in LOOKS.items()}
    content = {"metric": chosen, "metrics": {metric: metric_label(metric) for metric in metrics}, "labels": labels, "series": series}
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
