"""The metric and figure levels: metrics from stored samples, tables and figures from measured values. Nothing of the suite's is executed.

What rests on something that is wrong already is not computed again: it would blame the wrong file. Who draws is handed in (`Renderers`),
since this room knows nothing of the report's.
"""

import fnmatch
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backtrail.artifacts import load_json
from backtrail.audit.alike import values_apart
from backtrail.audit.findings import BROKEN, CLOSE, STALE, Finding
from backtrail.audit.rounding import TOLERANCE, is_near, metrics_bounds, same_machine
from backtrail.errors import UserError
from backtrail.layout import AXES, FIGURES, METRICS, PARAMS_FILE, PIPELINE_FILE, RECORDS, SAMPLES, TABLES
from backtrail.ledger.confined import open_confined
from backtrail.ledger.ledger import Ledger, Stage
from backtrail.metrics.evaluate import Measure, evaluate_archive
from backtrail.metrics.measures import load_measure
from backtrail.nested import differences
from backtrail.parameters.base import validate
from backtrail.parameters.metrics import Metrics
from backtrail.running.determinism import deterministic
from backtrail.tensors import load_tensors

Result = tuple[list[Finding], set[str], list[str]]  # findings, files that came out the same, notes
CANNOT = (UserError, LookupError, ValueError, TypeError, AttributeError)  # a table that is not as this version of the report reads it
Render = Callable[[str, Path], None]  # of one table or figure, by name, into a folder


@dataclass(frozen=True)
class Renderers:
    """Who draws again: below each folder, what writes one of its files by name; and what writes each page."""

    by_folder: Mapping[str, Render]
    pages: Mapping[str, Callable[[Path], None]]


def chosen(ledger: Ledger, bad: set[str], patterns: Sequence[str], makes: str) -> tuple[list[Stage], list[str]]:
    """The stages that fit a pattern and make something below `makes` out of sound inputs, and a note on those left out."""
    fitting = [
        stage
        for stage in ledger.in_order()
        if any(fnmatch.fnmatch(stage.name, pattern) for pattern in patterns) and any(out.startswith(makes) for out in stage.products)
    ]
    sound = [stage for stage in fitting if not any(ledger.closure(source) & bad for source in ledger.inputs(stage))]
    left = [stage.name for stage in fitting if stage not in sound]
    return sound, [f"not computed again, because something that it reads is not sound: {', '.join(left)}"] if left else []


def metrics(ledger: Ledger, bad: set[str], patterns: Sequence[str]) -> Result:
    """Every metric of the chosen metric stages from the stored samples, held against the stored values to the last digit."""
    found, right = [], set()
    fitting, notes = chosen(ledger, bad, patterns, f"{METRICS}/")
    todo = [stage for stage in fitting if _reads_samples(stage)]
    if others := [stage.name for stage in fitting if not _reads_samples(stage)]:
        notes = [*notes, f"not computed again, because the images that were measured are not kept: {', '.join(others)}"]
    measures: dict[str, Measure] = {}
    started = time.perf_counter()
    for stage in todo:
        out = _metric_file(stage)
        if not (ledger.folder / out).is_file():
            continue  # not here, as the hash level has said
        try:
            finding = _measured_again(ledger, stage, measures)
        except CANNOT as error:
            message = f"{out} cannot be held against {_samples(stage)}: {described(error)}"
            finding = Finding(BROKEN, out, f"{_samples(stage)} -> {out}", message, f"dvc repro -f {stage.name}")
        if finding is None:
            right.add(out)
        else:
            found.append(finding)
    close = sum(finding.verdict == CLOSE for finding in found)
    said = f"{len(right)} the same to the last digit" + (f", {close} within tolerance" if close else "")
    return found, right, [*notes, f"metrics of {len(todo)} stages computed again in {time.perf_counter() - started:.1f} s: {said}"]


def measured(ledger: Ledger, stage: Stage, measures: dict[str, Measure]) -> tuple[Any, Any]:
    """Values and protocol of a metric stage by its samples and the parameters that the lock names. measures: kept from stage to stage."""
    torch.set_num_threads(int((stage.params.get("runtime") or {}).get("threads", 1)))
    deterministic()
    p = validate(Metrics, stage.params["metrics"], "metrics")
    measures |= {name: load_measure(name, folder=ledger.folder) for name in p.extractors if name not in measures}
    return evaluate_archive(*load_tensors(ledger.folder / _samples(stage)), measures, p)


def print_measured(folder: str, stage: str) -> None:
    """The values alone, as JSON on standard output: for a process that rounds otherwise (`rounding.metrics_bounds`)."""
    ledger = open_confined(folder)
    print(json.dumps(measured(ledger, ledger.stages[stage], {})[0]))


def _metric_file(stage: Stage) -> str:
    return next(path for path in stage.products if path.startswith(f"{METRICS}/"))


def _reads_samples(stage: Stage) -> bool:
    """Whether it measures an archive of images, and not those that it has just made (latent models)."""
    return any(path.startswith(f"{SAMPLES}/") for path in stage.deps)


def _samples(stage: Stage) -> str:
    return next(path for path in stage.deps if path.startswith(f"{SAMPLES}/"))


def _measured_again(ledger: Ledger, stage: Stage, measures: dict[str, Measure]) -> Finding | None:
    """What is wrong with a metric file; None if every digit is the same.

    Where the last digits differ, this machine measures by other instructions what rounding may do; the record has no say in it.
    """
    out = _metric_file(stage)
    stored, (values, rule) = load_json(ledger.folder / out), measured(ledger, stage, measures)
    unlike = [("/".join(place), was, now) for place, was, now in differences(stored["values"], values)]
    said = ([] if rule == stored["protocol"] else ["the protocol"]) + [f"{p}: stored {was!r}, computed {now!r}" for p, was, now in unlike]
    if not said:
        return None
    message = f"{out}: {'; '.join(said[:3])}{f' and {len(said) - 3} more' if len(said) > 3 else ''}"
    near, distances = False, values_apart(stored["values"], values)
    if rule == stored["protocol"] and max(distances) <= TOLERANCE and not same_machine(ledger, stage):
        bounds = metrics_bounds(ledger, stage, values)
        near = bounds is not None and is_near(distances, bounds)
        message += f"; {max(distances):.2g} apart, and " + (
            "what rounding does here could not be measured"
            if bounds is None
            else f"this machine's own rounding takes it {max(bounds, default=0.0):.2g} apart"
        )
    link, cure = f"{_samples(stage)} -> {out}", "" if near else f"dvc repro -f {stage.name}"
    return Finding(CLOSE if near else BROKEN, out, link, f"{message}: {CLOSE}" if near else message, cure)


@contextmanager
def beside(ledger: Ledger) -> Iterator[Path]:
    """A folder that sees the suite's parameters, data and results, and has no reports of its own yet."""
    with tempfile.TemporaryDirectory(prefix="backtrail-") as name:
        lay_out(ledger, [PARAMS_FILE, "data", *_results(ledger)], Path(name))
        yield Path(name)


def lay_out(ledger: Ledger, paths: Iterable[str], folder: Path) -> None:
    """Put links to those of the suite's files and folders that are here into `folder`, and the gathered records that are not."""
    for path in paths:
        if (ledger.folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to((ledger.folder / path).resolve())
    for path, content in ledger.gathered.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def _results(ledger: Ledger) -> list[str]:
    """The folder of results; where records are missing in it, what it holds instead, so that they can be put in their place."""
    if not ledger.gathered:
        return ["results"]
    within = [path for path in (ledger.folder / "results").glob("*") if path.name != Path(RECORDS).name]
    return [path.relative_to(ledger.folder).as_posix() for path in [*within, *(ledger.folder / RECORDS).glob("*")]]


def described(error: Exception) -> str:
    """An error's message, with its kind where it is none that a user is meant to read."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def tables(ledger: Ledger, bad: set[str], patterns: Sequence[str], renderers: Renderers) -> Result:
    """The tables from the metric files, curves and paths."""
    return rendered(ledger, bad, patterns, TABLES, renderers.by_folder[TABLES])


def figures(ledger: Ledger, bad: set[str], patterns: Sequence[str], renderers: Renderers) -> Result:
    """The figures and the ablations' axes, then the pages: of the results, which shows them with the tables, and of the run."""
    found, right, notes = rendered(ledger, bad, patterns, FIGURES, renderers.by_folder[FIGURES])
    if any(out.startswith(f"{AXES}/") for out in ledger.makers):
        parts = rendered(ledger, bad, patterns, AXES, renderers.by_folder[AXES])
        found, right, notes = found + parts[0], right | parts[1], notes + parts[2]
    for path, render in renderers.pages.items():
        maker = ledger.maker(path)
        if maker is None or ledger.closure(path) & bad or not any(fnmatch.fnmatch(maker.name, pattern) for pattern in patterns):
            continue
        if wrong := _page(ledger, maker, path, render):
            found.append(wrong)
        else:
            right = right | {path}
    return found, right, notes


def _page(ledger: Ledger, maker: Stage, path: str, render: Callable[[Path], None]) -> Finding | None:
    """What is wrong with a page, written again from what lies below results and reports; of the run, from the pipeline too."""
    with beside(ledger) as folder:
        for part in (TABLES, FIGURES, AXES, PIPELINE_FILE):
            if (ledger.folder / part).exists():
                (folder / part).parent.mkdir(exist_ok=True)
                (folder / part).symlink_to((ledger.folder / part).resolve())
        try:
            render(folder)
        except CANNOT as error:
            return Finding(BROKEN, path, f"{maker.name} -> {path}", f"{path} cannot be rendered: {described(error)}")
        same = (folder / path).read_bytes() == (ledger.folder / path).read_bytes()
    return None if same else _differs(ledger, maker, path)


def rendered(ledger: Ledger, bad: set[str], patterns: Sequence[str], top: str, render: Render) -> Result:
    """Everything below `top` that a stage made, rendered again in a folder of its own and compared byte by byte."""
    found, right = [], set()
    todo, notes = chosen(ledger, bad, patterns, f"{top}/")
    started = time.perf_counter()
    with beside(ledger) as folder:
        for stage in todo:
            outs = [path for path in stage.products if path.startswith(f"{top}/")]
            for name in dict.fromkeys(Path(path).stem for path in outs):
                try:
                    render(name, folder)
                except CANNOT as error:
                    message = f"{name} cannot be rendered: {described(error)}"
                    found.append(Finding(BROKEN, f"stage:{stage.name}", f"{stage.name} -> {name}", message))
            for path in (path for path in outs if path not in bad):
                if (folder / path).is_file() and (folder / path).read_bytes() == (ledger.folder / path).read_bytes():
                    right.add(path)
                else:
                    found.append(_differs(ledger, stage, path))
    took = time.perf_counter() - started
    return found, right, [*notes, f"{len(right)} files below {top} rendered again, the same bytes, in {took:.1f} s"]


def _differs(ledger: Ledger, stage: Stage, path: str) -> Finding:
    if stage.keeps_books:  # it depends on no parameter, and its page shows some: they may be of now
        message = f"{path}: written again from the records, dvc.yaml and params.yaml that lie here, the bytes differ"
        return Finding(STALE, path, f"{stage.name} -> {path}", message, f"dvc repro -f {stage.name}")
    was = ((ledger.records[stage.name] or {}).get("packages") or {}).get("matplotlib")
    message = f"{path}: rendered again from what {stage.name} reads, the bytes differ (matplotlib {was} then)"
    return Finding(BROKEN, path, f"{stage.name} -> {path}", message, f"dvc repro -f {stage.name}")
