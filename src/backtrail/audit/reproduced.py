"""This run's results held against published ones: how near each number came, and which verdicts changed.

Another processor rounds differently, and training carries it on: the same bytes are the exception there. So each number of the table of
results and of the metric files is put into the first of four classes that it fits:

- same: to the last digit that is written;
- float: within `FLOAT`, relative, what rounding alone does to a sum;
- spread: no further from the published one than `SPREADS` standard deviations over the published seeds;
- outside: further. These are named.

A number of one model (the teacher's), which has no seeds, is judged by the median relative spread of the other numbers of its metric; a
cost has no spread.
"""

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, stdev
from typing import Any

from backtrail.audit.published import CLAIMS, RESULTS, NothingPublished, Origin, as_locked, files_of, last_with_results, numbers_in, origin
from backtrail.audit.runs import Run, open_run, text_of
from backtrail.errors import UserError
from backtrail.layout import LOCK_FILE
from backtrail.ledger.confined import open_confined
from backtrail.ledger.ledger import Stage
from backtrail.ledger.numbers import Number, find

FLOAT, SPREADS = 1e-5, 2.0
SAME, ROUNDED, WITHIN, OUTSIDE = "same", "float", "spread", "outside"
MEASURED = re.compile(r"(.+)_(?:mean|min)$|(cost_F)$")  # of the table of results; `_std` is the spread itself
EXIT_CODE = 6  # where something lies outside, is missing, or a verdict changed; 1 is an error that nobody foresaw


@dataclass(frozen=True)
class Held:
    """A published number and this run's, its standard deviation over the published seeds (NaN if it has none), and its class."""

    name: str
    published: float
    here: float
    std: float
    near: str

    @property
    def spreads(self) -> float:
        """How many standard deviations lie between both; infinitely many where there is none."""
        return abs(self.here - self.published) / self.std if self.std > 0 else math.inf if self.here != self.published else 0.0


@dataclass(frozen=True)
class Changed:
    """A claim whose verdict is another one here; empty where one side does not judge it."""

    claim: str
    text: str
    published: str
    here: str


@dataclass(frozen=True)
class Reproduction:
    """What a run is told about itself. unlike: stages whose code or parameters are not the published ones."""

    published: Origin
    here: Origin
    numbers: list[Held]
    n_verdicts: int
    changed: list[Changed]
    missing: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)

    def of(self, near: str) -> list[Held]:
        """The numbers of one class, those without a spread first, then the farthest."""
        return sorted((one for one in self.numbers if one.near == near), key=lambda one: -one.spreads)

    @property
    def exit_code(self) -> int:
        """0 if every number is within the spread and every verdict the same, else `EXIT_CODE`."""
        return EXIT_CODE if self.of(OUTSIDE) or self.missing or self.changed else 0

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        counts = {near: len(self.of(near)) for near in (SAME, ROUNDED, WITHIN, OUTSIDE)}
        return {
            "exit_code": self.exit_code,
            "published": vars(self.published),
            "here": vars(self.here),
            "counts": counts | {"missing": len(self.missing)},
            "outside": [vars(one) | {"std": None if math.isnan(one.std) else one.std} for one in self.of(OUTSIDE)],
            "missing": self.missing,
            "verdicts": self.n_verdicts,
            "verdicts_changed": [vars(one) for one in self.changed],
            "stages_with_other_code_or_parameters": self.unlike,
        }


def reproduced(folder: str | Path = ".", against: str = "") -> Reproduction:
    """The results in `folder` against those of `against`: a commit, a suite's folder, a table of results (CSV), or by default the newest
    commit that holds results. Raises NothingPublished where there is nothing to compare, UserError where one side is not its own lock's."""
    folder = Path(folder)
    ledger = open_confined(folder)
    if not against and not any((folder / stage.record).is_file() for stage in ledger.stages.values()):
        raise NothingPublished(
            f"no stage has run here: what lies in {folder.resolve().name} are the published results themselves; run the suite"
        )
    here = Run(str(folder), ledger.stages, lambda path: text_of(folder / path))
    if Path(against).is_file():
        published, source = {RESULTS: Path(against).read_text(encoding="utf-8")}, Origin(against)
        unlike: list[str] = []
    else:
        run = open_run(against or last_with_results(folder), folder)
        published, source = {file: run.read(file) or "" for file in [*files_of(run), CLAIMS]}, origin(run)
        if forged := [file for file, text in published.items() if text and not as_locked(run, file, text)]:
            raise UserError(f"{source.name}: {', '.join(forged[:3])} is not what its own {LOCK_FILE} names: nothing was published there")
        unlike = [name for name, stage in run.stages.items() if name in here.stages and _recipe(stage) != _recipe(here.stages[name])]
        if foreign := [file for file in published if (text := here.read(file)) is not None and not as_locked(here, file, text)]:
            raise UserError(
                f"{', '.join(foreign[:3])} is not what {LOCK_FILE} and the records here name: it is of another run; "
                f"`git checkout -- {foreign[0]}`"
            )
    theirs = {file: numbers_in(ledger, file, text) for file, text in published.items() if file != CLAIMS and text}
    ours = {number.name: float(number.text) for file in theirs for number in find(ledger, file) if _metric(number)}
    numbers = list(_measured(theirs))
    if not numbers and not published.get(CLAIMS):
        raise NothingPublished(f"{source.name} holds neither {RESULTS} with numbers nor {CLAIMS}: name another commit, table or folder")
    verdicts = _verdicts(published.get(CLAIMS, "")), _verdicts(here.read(CLAIMS) or "")
    return Reproduction(
        source,
        origin(here),
        [_held(name, value, ours[name], std) for name, value, std in numbers if name in ours],
        len(verdicts[0]),
        list(_changed(*verdicts)) if verdicts[0] else [],
        [name for name, _, _ in numbers if name not in ours],
        unlike,
    )


def _recipe(stage: Stage) -> tuple[str, str, dict[str, Any]]:
    return stage.cmd, stage.code, stage.params


def _held(name: str, published: float, here: float, std: float) -> Held:
    distance = abs(here - published)
    near = (
        SAME if here == published
        else ROUNDED if distance <= FLOAT * abs(published)
        else WITHIN if distance <= SPREADS * std  # NaN is no spread
        else OUTSIDE
    )  # fmt: skip
    return Held(name, published, here, std, near)


def _measured(files: Mapping[str, list[Number]]) -> Iterable[tuple[str, float, float]]:
    """(name, value, standard deviation over seeds or NaN) of every number that was measured."""
    found = [(number, metric) for numbers in files.values() for number in numbers if (metric := _metric(number))]
    tables = {number.name: number.text for number in files.get(RESULTS, [])}
    seeds: dict[str, list[float]] = defaultdict(list)
    for number, _ in found:
        seeds[_any_seed(number.name)].append(float(number.text))

    def spread(number: Number, metric: str) -> float:
        if number.file == RESULTS:
            row = number.name.rpartition(",")[0]
            return float(tables.get(f"{row},{metric}_std", "nan"))
        values = seeds[_any_seed(number.name)]
        return stdev(values) if len(values) > 1 else math.nan

    known = [(number, metric, float(number.text), spread(number, metric)) for number, metric in found]
    relative: dict[str, list[float]] = defaultdict(list)
    for _, metric, value, std in known:
        if value and not math.isnan(std):
            relative[metric].append(std / abs(value))
    for number, metric, value, std in known:
        alone = math.isnan(std) and relative[metric]
        yield number.name, value, median(relative[metric]) * abs(value) if alone else std


def _metric(number: Number) -> str:
    """The metric that a number is of; empty for what nobody measured (a count, a verdict, a spread, a paper's number) and for no number."""
    if number.external or not _is_finite(number.text):
        return ""
    if number.file != RESULTS:
        return number.column
    return next(filter(None, found.groups()), "") if (found := MEASURED.fullmatch(number.column)) else ""


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _any_seed(name: str) -> str:
    return re.sub(r"/seed\d+\.json:", "/seed*.json:", name)


def _verdicts(table: str) -> dict[str, tuple[str, str]]:
    """(text, verdict) of each claim by its key."""
    return {row["claim"]: (row.get("text", ""), row.get("verdict", "")) for row in csv.DictReader(io.StringIO(table)) if "claim" in row}


def _changed(published: dict[str, tuple[str, str]], here: dict[str, tuple[str, str]]) -> Iterable[Changed]:
    for claim, (text, verdict) in published.items():
        if (now := here.get(claim, ("", ""))[1]) != verdict:
            yield Changed(claim, text, verdict, now)
