"""Reading what the stages of a suite measured into tidy tables. Nothing is averaged here: one row is one measured value.

The suite's parameters say which methods and seeds must be there; a file that is absent is an error, never a gap in a figure.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import safetensors

from backtrail import layout
from backtrail.artifacts import load_json
from backtrail.errors import UserError
from backtrail.layout import PARAMS_FILE
from backtrail.parameters.base import read, section
from backtrail.parameters.report import Report
from backtrail.report.names import LOOKS
from backtrail.tables import load_csv

T = TypeVar("T", dict, list, str)

CURVE_COLUMNS = ("update", "total_updates", "cost", "node", "nfe", "fd_classifier")
PATH_COLUMNS = ("node", "step", "loss_student", "loss_data")
MEASURES = ("raw", "excess", "difference")
MISMATCH_COLUMNS = ("update", "total_updates", "node", "sigma", *(f"{m}_{s}" for m in MEASURES for s in ("mean", "std")))


@dataclass(frozen=True)
class Suite:
    """What the report needs to know of a suite: its folder, its data set, its methods and their seeds."""

    folder: Path
    report: Report
    data_set: str
    families: dict[str, str]  # method -> score or trajectory, whatever it starts from
    seeds: list[int]
    guided: dict[str, float]  # the teacher's samplers -> weight of guidance, where it is not 1
    left_out: frozenset[str] = frozenset()  # samplers of the teacher that curves do not show

    def methods(self, family: str | None = None) -> list[str]:
        """Names of the methods (of one family), in the order of the parameters."""
        return [name for name, of in self.families.items() if family in (None, of)]

    @cached_property
    def varied(self) -> frozenset[str]:
        """The methods and samplers that vary one thing: all of an axis but its baseline and the papers' own methods."""
        axes = [(axis.baseline, axis.methods) for axis in self.report.axes.values()]
        axes += [(axis.baseline, axis.samplers) for axis in self.report.sampler_axes.values()]
        return frozenset({name for _, entries in axes for name in entries} - {baseline for baseline, _ in axes} - LOOKS.keys())

    def overview(self) -> "Suite":
        """The suite as figures show it that compare all methods: what varies one thing has its axis's figure, or the legend would be longer
        than the figure is high."""
        return replace(self, families={name: of for name, of in self.families.items() if name not in self.varied}, left_out=self.varied)

    @cached_property
    def recorded(self) -> list[str]:
        """The one-step methods whose path has more than one node: those that recorded one."""
        return [method for method in self.methods("score") if len(_path_of(self, method, self.seeds[0])) > 1]


def open_suite(folder: str | Path = ".") -> Suite:
    """Read what the report needs out of `params.yaml`. Raises UserError if a part is absent or not allowed.

    Of the methods only the names matter here: how they were trained is read from what they made.
    """
    path = Path(folder) / PARAMS_FILE
    values = read(path)
    score = {name for methods in _part(values, "start", dict, path).values() for name in methods}
    samplers = (values.get("teacher_samples") or {}).get("samplers") or {}
    return Suite(
        folder=Path(folder),
        report=section(Report, "report", path),
        data_set=_part(_part(values, "data", dict, path), "name", str, path),
        families={name: "score" if name in score else "trajectory" for name in _part(values, "students", dict, path)},
        seeds=_part(values, "seeds", list, path),
        guided={name: float(of["guidance"]) for name, of in samplers.items() if of.get("guidance", 1.0) != 1.0},
    )


def _part(values: dict[str, Any], key: str, kind: type[T], path: Path) -> T:
    if not isinstance(values.get(key), kind):
        raise UserError(f"{path}: {key} should be a {kind.__name__}; found {values.get(key)!r}")
    return values[key]


def require(path: Path, maker: str) -> Path:
    """`path`, if it is there. Raises UserError that names the stage (`maker`) that makes it."""
    if not path.is_file():
        raise UserError(f"{path} is missing: {maker} makes it; run `dvc repro` in the suite's folder, or `dvc pull`")
    return path


def _table(path: Path, columns: Sequence[str], maker: str) -> pd.DataFrame:
    """A CSV file that must have `columns` and at least one row."""
    table = load_csv(require(path, maker))
    if absent := [name for name in columns if name not in table.columns]:
        raise UserError(f"{path} has no column {', '.join(absent)} (found: {', '.join(table.columns)}): run {maker} again")
    if table.empty:
        raise UserError(f"{path} has no rows: run {maker} again")
    return table


def _per_seed(suite: Suite, methods: Sequence[str], place: Callable[[str, int], str], columns: Sequence[str], stage: str) -> pd.DataFrame:
    """The CSV files of `methods` and all seeds under one another, with the columns `method` and `seed` in front."""
    tables = []
    for method in methods:
        for seed in suite.seeds:
            path = suite.folder / place(method, seed)
            table = _table(path, columns, f"stage `{stage}` of {method}, seed {seed},")
            tables.append(table.assign(method=method, seed=seed))
    if not tables:
        return pd.DataFrame(columns=["method", "seed", *columns])
    joined = pd.concat(tables, ignore_index=True)
    return joined[["method", "seed", *(name for name in joined.columns if name not in ("method", "seed"))]]


def curves(suite: Suite, methods: Sequence[str]) -> pd.DataFrame:
    """Training curves: method, seed, and the columns of `curve.csv` (costs in F, network forwards on one batch)."""
    return _per_seed(suite, methods, layout.curve, CURVE_COLUMNS, "student")


def costs(suite: Suite) -> pd.DataFrame:
    """Fine-tuning cost of every student, from the last row of its curve: method, seed, cost (F)."""
    return curves(suite, suite.methods()).groupby(["method", "seed"], sort=False)["cost"].max().reset_index()


def mismatch(suite: Suite, methods: Sequence[str]) -> pd.DataFrame:
    """Mismatch degree: method, seed, and per update and sigma the mean and standard deviation over samples of three measures."""
    return _per_seed(suite, methods, layout.mismatch, MISMATCH_COLUMNS, "mismatch")


def _path_of(suite: Suite, method: str, seed: int) -> pd.DataFrame:
    return _table(suite.folder / layout.path(method, seed) / "path.csv", PATH_COLUMNS, f"stage `path` of {method}, seed {seed},")


def paths(suite: Suite) -> pd.DataFrame:
    """Recorded degradation paths: method, seed, node (0 is the teacher), step, and the node's loss on student samples and on data."""
    return _per_seed(suite, suite.recorded, lambda method, seed: f"{layout.path(method, seed)}/path.csv", PATH_COLUMNS, "path")


def teacher_metrics(suite: Suite) -> list[tuple[str, int, Path]]:
    """The teacher's metric file, as in `metric_files`."""
    return [("teacher", 0, suite.folder / layout.metrics())]


def metric_files(suite: Suite) -> list[tuple[str, int, Path]]:
    """(method, seed, file) of every metric file that the suite must have; the teacher's first."""
    pairs = [(method, seed) for method in suite.methods() for seed in suite.seeds]
    return teacher_metrics(suite) + [(method, seed, suite.folder / layout.metrics(method, seed)) for method, seed in pairs]


def _metric_file(method: str, seed: int, path: Path) -> dict[str, Any]:
    maker = "stage `metrics` of the teacher" if method == "teacher" else f"stage `metrics` of {method}, seed {seed},"
    content = load_json(require(path, maker))
    if not isinstance(content, dict) or not {"values", "protocol"} <= content.keys():
        raise UserError(f"{path} is no metric file (expected the keys `values` and `protocol`): run {maker} again")
    return content


def quality(suite: Suite, files: Sequence[tuple[str, int, Path]] | None = None) -> pd.DataFrame:
    """Every metric value: kind (teacher, student), method (solver or method), seed, nfe, guidance, trained, metric, value.

    Of all metric files, or of `files`. `trained` is False where a student was sampled with a number of function evaluations that it was not
    trained for; `guidance` is the weight of classifier-free guidance that the images were sampled with, 1 being none.
    """
    rows = []
    for method, seed, path in metric_files(suite) if files is None else files:
        content = _metric_file(method, seed, path)
        teacher = method == "teacher"
        for source, by_nfe in content["values"].items():
            guidance = suite.guided.get(source, 1.0) if teacher else student_guidance(source, path)
            for key, values in by_nfe.items():
                nfe = int(key.removeprefix("nfe"))
                head = ("teacher", source) if teacher else ("student", method)
                # Guidance evaluates two branches a step, and nobody is trained for that: it is the steps that were trained.
                trained = teacher or (nfe if guidance == 1 else nfe / 2) in content["trained_nfe"]
                rows += [(*head, seed, nfe, guidance, trained, metric, float(value)) for metric, value in sorted(values.items())]
    return pd.DataFrame(rows, columns=["kind", "method", "seed", "nfe", "guidance", "trained", "metric", "value"])


def student_guidance(source: str, path: Path) -> float:
    """The weight in a student's source: `student` -> 1, `student-w1.5` -> 1.5. Raises UserError for another source."""
    if found := re.fullmatch(r"student(?:-w(\d+(?:\.\d+)?))?", source):
        return float(found[1] or 1)
    raise UserError(f"{path} holds the unknown source {source}; expected student or student-wNUMBER: run stage `metrics` again")


def unguided(values: pd.DataFrame) -> pd.DataFrame:
    """The rows of `quality` without guidance, which figures and claims compare."""
    return values[values["guidance"] == 1.0]


def of_metric(values: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of one metric. Raises UserError that names the metrics there are."""
    if metric not in set(values["metric"]):
        raise UserError(f"no metric file holds {metric} (parameter report.metric); found: {', '.join(sorted(set(values['metric'])))}")
    return values[values["metric"] == metric]


def protocols(suite: Suite) -> pd.DataFrame:
    """How each metric was measured, one row a metric, text cells. Raises UserError if two files measured one metric differently.

    Only the image seeds may differ between files: numbers of one table must come from one protocol.
    """
    found: dict[str, tuple[dict[str, str], Path]] = {}
    seeds: dict[str, set[str]] = {}
    for method, seed, path in metric_files(suite):
        for entry in _metric_file(method, seed, path)["protocol"]:
            metric = entry["metric"]
            rule = {"metric": metric} | {key: _cell(value) for key, value in sorted(entry.items()) if key != "seeds"}
            first, first_path = found.setdefault(metric, (rule, path))
            if rule != first:
                differing = sorted(key for key in first.keys() | rule.keys() if first.get(key) != rule.get(key))
                raise UserError(f"{path} and {first_path} measure {metric} with different {', '.join(differing)}: measure both again alike")
            seeds.setdefault(metric, set()).add(_cell(entry.get("seeds", "")))
    return pd.DataFrame([{**rule, "seeds": "; ".join(sorted(seeds[metric]))} for metric, (rule, _) in found.items()])


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def extractor_of(metric: str) -> str:
    """The feature extractor in a metric's name: `fd_efficientnet_lite0` -> `efficientnet-lite0`."""
    return metric.removesuffix("_best").split("_", 1)[1].replace("_", "-")


def floor(suite: Suite, metric: str, of: str = "floor") -> float:
    """What the metric reads for real images against real images, at the number of images of the tables (`floor`) or of the curves
    (`floor_curve`): a Frechet distance of fewer images is larger.

    Raises UserError if the reference file has none: no number is shown without its floor.
    """
    extractor = extractor_of(metric)
    maker = f"stage `reference` of {extractor}"
    path = require(suite.folder / layout.reference_values(extractor), maker)
    floors = load_json(path).get(of, {})
    if (metric := metric.removesuffix("_best")) not in floors:
        found = ", ".join(floors) or "none"
        raise UserError(f"{path} has no real-against-real floor of {metric} under `{of}` (found: {found}): run {maker} again")
    return float(floors[metric])


@contextmanager
def _archive(path: Path, maker: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """An open safetensors file, read as numpy arrays, and its metadata."""
    require(path, maker)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file, json.loads((file.metadata() or {}).get("backtrail", "{}")).get("metadata", {})
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): delete it and run {maker} again") from None


def archive_metadata(path: Path, maker: str) -> dict[str, Any]:
    """The metadata of an archive of images. `maker` is the stage that an error names."""
    with _archive(path, maker) as (_, metadata):
        return metadata


def images(path: Path, key: str, n: int, maker: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The first `n` images of an archive, uint8 [n, C, H, W], and the archive's metadata. The rest of the file is not read."""
    with _archive(path, maker) as (file, metadata):
        if key not in file.keys():  # noqa: SIM118 (not a dict)
            raise UserError(f"{path} holds no images {key} (found: {', '.join(sorted(file.keys()))}): run {maker} again")
        stored = file.get_slice(key)
        if stored.get_shape()[0] < n:
            raise UserError(f"{path} holds {stored.get_shape()[0]} images {key}; parameter report.sample_columns asks for {n}")
        return stored[:n], metadata


def all_states(path: Path, maker: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The sampling trajectories of an archive, float32 [T + 1, m, C, H, W] by key, from noise to image, and the archive's metadata."""
    with _archive(path, maker) as (file, metadata):
        return {key: file.get_tensor(key) for key in sorted(file.keys())}, metadata
