"""The deeper audits: metrics from stored samples, tables and figures from measured values, whole stages from their inputs.

What rests on something that is wrong already is not computed again: it would blame the wrong file.
"""

import fnmatch
import logging
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from backtrail.artifacts import load_json
from backtrail.audit.alike import TOLERANCE, alike
from backtrail.audit.audit import Recompute
from backtrail.audit.findings import BROKEN, Finding
from backtrail.errors import UserError
from backtrail.ledger.chains import chains
from backtrail.ledger.hashes import Hashes
from backtrail.ledger.ledger import RECORDS, Ledger, Stage, at_key
from backtrail.ledger.numbers import AXES, FIGURES, METRICS, TABLES
from backtrail.ledger.record import processor
from backtrail.metrics.evaluate import Measure, evaluate_samplings, protocol
from backtrail.metrics.features import extractor
from backtrail.metrics.reference import load_reference
from backtrail.parameters.base import PARAMS_FILE, validate
from backtrail.parameters.metrics import Metrics
from backtrail.report.axes import render_axis
from backtrail.report.figures import render_figure
from backtrail.report.html import render_report
from backtrail.report.tables import render_table
from backtrail.tensors import load_tensors

Result = tuple[list[Finding], set[str], list[str]]
LAST_DIGITS = 1e-4  # relative; allowed only where torch or the processor are not those of the record
RUN = "python -m backtrail "
WEIGHTS = {
    "classifier": "results/classifier/*.safetensors",
    "inception": "data/inception/weights-*.pth",
    "inception-clean": "data/inception/weights-*.pth",
}
LOCAL = ("data.local", "teacher.local", "metrics.inception.local")  # parameters that name folders with files got by hand


def recomputations(levels: Sequence[str], patterns: Sequence[str]) -> list[Recompute]:
    """The functions that `audit` calls for these levels, for stages whose name fits one of the patterns."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph that a PDF holds
    by_level: dict[str, list[Callable[..., Result]]] = {"metric": [metrics, tables], "figure": [figures], "stage": [stages]}
    again = [recompute for level in levels for recompute in by_level.get(level, [])]
    return [lambda ledger, bad, of=of: of(ledger, bad, patterns) for of in again]


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
    todo, notes = chosen(ledger, bad, patterns, METRICS)
    measures: dict[str, Measure] = {}
    started = time.perf_counter()
    for stage in todo:
        (out,) = (path for path in stage.products if path.startswith(METRICS))
        content = load_json(ledger.folder / out)
        values, rule = measured_again(ledger, stage, measures)
        differing = [] if rule == content["protocol"] else ["the protocol"]
        exact = same_machine(ledger, stage)
        for place, was, now in _pairs(content["values"], values, ""):
            if was != now and (exact or not _close(was, now)):
                differing.append(f"{place}: stored {was!r}, computed {now!r}")
        if differing:
            message = f"{out}: {'; '.join(differing[:3])}{f' and {len(differing) - 3} more' if len(differing) > 3 else ''}"
            found.append(Finding(BROKEN, out, f"{samples_of(stage)} -> {out}", message, f"dvc repro -f {stage.name}"))
        else:
            right.add(out)
            if not exact:
                notes.append(f"{out}: compared within {LAST_DIGITS:g} (relative): torch or processor are not those of its record")
    return found, right, [*notes, f"metrics of {len(todo)} stages computed again in {time.perf_counter() - started:.1f} s"]


def measured_again(ledger: Ledger, stage: Stage, measures: dict[str, Measure]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(values, protocol) of a metric stage from its samples file, with the parameters that the lock names."""
    torch.set_num_threads(int((stage.params.get("runtime") or {}).get("threads", 1)))
    torch.use_deterministic_algorithms(True)
    p = validate(Metrics, stage.params["metrics"], "metrics")
    for name in p.extractors:
        if name not in measures:
            features = extractor(name, weights_of(ledger, name))
            measures[name] = features, load_reference(ledger.folder / f"results/reference/{name}.safetensors", features)
    sets, about = load_tensors(ledger.folder / samples_of(stage))
    values: dict[str, Any] = {}
    for key, images in sets.items():
        sampler, nfe = key.split("/")
        values.setdefault(sampler, {})[nfe] = evaluate_samplings(images, measures, p)
    seeds = (about["first_seed"], about["first_seed"] + about["n_images"])
    return values, protocol(measures, p, seeds)


def weights_of(ledger: Ledger, name: str) -> Path | None:
    """The suite's file with an extractor's weights; None where they come with their package."""
    return next(iter(sorted(ledger.folder.glob(WEIGHTS[name]))), None) if name in WEIGHTS else None


def samples_of(stage: Stage) -> str:
    """The samples that a metric stage measured."""
    return next(path for path in stage.deps if path.startswith("results/samples/"))


def same_machine(ledger: Ledger, stage: Stage) -> bool:
    """Whether torch and the processor are those that the stage's record names: then the last digit must agree too."""
    record = ledger.records[stage.name] or {}
    was = record.get("packages", {}).get("torch"), record.get("host", {}).get("processor")
    return was == (metadata.version("torch"), processor())


def _pairs(was: Any, now: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted(was.keys() | now.keys()):
            yield from _pairs(was.get(key), now.get(key), f"{place}/{key}".lstrip("/"))
    else:
        yield place, was, now


def _close(was: Any, now: Any) -> bool:
    numbers = isinstance(was, int | float) and isinstance(now, int | float)
    return numbers and abs(was - now) <= LAST_DIGITS * max(abs(was), abs(now), 1e-6)


@contextmanager
def beside(ledger: Ledger) -> Iterator[Path]:
    """A folder that sees the suite's parameters, data and results, and has no reports of its own yet."""
    with tempfile.TemporaryDirectory(prefix="backtrail-") as name:
        folder = Path(name)
        for part in (PARAMS_FILE, "data", "results"):
            if (ledger.folder / part).exists():
                (folder / part).symlink_to((ledger.folder / part).resolve())
        yield folder


def tables(ledger: Ledger, bad: set[str], patterns: Sequence[str]) -> Result:
    """The tables from the metric files, curves and paths."""
    return rendered(ledger, bad, patterns, TABLES, lambda name, folder: render_table(name, folder))


def figures(ledger: Ledger, bad: set[str], patterns: Sequence[str]) -> Result:
    """The figures; then tables and figures once more for the page, which shows both."""
    found, right, notes = rendered(ledger, bad, patterns, FIGURES, lambda name, folder: render_figure(name, folder))
    if any(out.startswith(f"{AXES}/") for out in ledger.makers):
        parts = rendered(ledger, bad, patterns, AXES, lambda name, folder: render_axis(name, folder))
        found, right, notes = found + parts[0], right | parts[1], notes + parts[2]
    page = "reports/index.html"
    if ledger.maker(page) is None or ledger.closure(page) & bad or not any(fnmatch.fnmatch("report", pattern) for pattern in patterns):
        return found, right, notes
    with beside(ledger) as folder:
        for part in (TABLES, FIGURES, AXES):
            if (ledger.folder / part).is_dir():
                (folder / part).parent.mkdir(exist_ok=True)
                (folder / part).symlink_to((ledger.folder / part).resolve())
        render_report(folder, chains(folder))
        same = (folder / page).read_bytes() == (ledger.folder / page).read_bytes()
    if same:
        return found, right | {page}, notes
    return [*found, _differs(ledger, ledger.makers[page], page)], right, notes


def rendered(ledger: Ledger, bad: set[str], patterns: Sequence[str], top: str, render: Callable[[str, Path], None]) -> Result:
    """Everything below `top` that a stage made, rendered again in a folder of its own and compared byte by byte."""
    found, right = [], set()
    todo, notes = chosen(ledger, bad, patterns, top)
    started = time.perf_counter()
    with beside(ledger) as folder:
        for stage in todo:
            outs = [path for path in stage.products if path not in bad]
            for name in dict.fromkeys(Path(path).stem for path in stage.products):
                try:
                    render(name, folder)
                except (UserError, LookupError, ValueError) as error:
                    found.append(Finding(BROKEN, f"stage:{stage.name}", f"{stage.name} -> {name}", f"{name} cannot be rendered: {error}"))
            for path in outs:
                if (folder / path).is_file() and (folder / path).read_bytes() == (ledger.folder / path).read_bytes():
                    right.add(path)
                else:
                    found.append(_differs(ledger, stage, path))
    return (
        found,
        right,
        [*notes, f"{len(right)} files below {top} rendered again, the same bytes, in {time.perf_counter() - started:.1f} s"],
    )


def _differs(ledger: Ledger, stage: Stage, path: str) -> Finding:
    was = ((ledger.records[stage.name] or {}).get("packages") or {}).get("matplotlib")
    message = f"{path}: rendered again from what {stage.name} reads, the bytes differ (matplotlib {was} then)"
    return Finding(BROKEN, path, f"{stage.name} -> {path}", message, f"dvc repro -f {stage.name}")


def stages(ledger: Ledger, bad: set[str], patterns: Sequence[str]) -> Result:
    """The chosen stages once more, each in a folder that holds nothing but its inputs; their outputs against the ledger."""
    found, right = [], set()
    todo, notes = chosen(ledger, bad, patterns, "")
    for stage in todo:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="backtrail-") as name:
            failure = run_again(ledger, stage, Path(name))
            if failure:
                found.append(
                    Finding(BROKEN, f"stage:{stage.name}", f"{stage.name} -> again", f"{stage.name} fails when run again: {failure}")
                )
                continue
            differing = [path for path in stage.products if not same_output(ledger, stage, path, Path(name))]
        right |= set(stage.products) - set(differing)
        took = f"in {time.perf_counter() - started:.1f} s"
        notes.append(f"{stage.name} run again {took}: {len(stage.products) - len(differing)} of {len(stage.products)} outputs the same")
        for path in differing:
            message = f"{path}: {stage.name} run again made other bytes; dvc.lock has md5 {stage.outs[path].md5}"
            found.append(Finding(BROKEN, path, f"{stage.name} -> {path}", message))
    return found, right, notes


def run_again(ledger: Ledger, stage: Stage, folder: Path) -> str:
    """Run a stage's command in `folder`, where links lead to its inputs. Returns what went wrong, or nothing."""
    local = [Path(place) for key in LOCAL if isinstance(place := at_key(ledger.params, key), str)]
    inputs = ledger.inputs(stage)
    records = {path for source in inputs for path in ledger.closure(source) if path.startswith(f"{RECORDS}/")}  # the page tells of them
    for path in {PARAMS_FILE, *inputs, *records, *(str(place) for place in local if not place.is_absolute())}:
        if (ledger.folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to((ledger.folder / path).resolve())
    if not stage.command.startswith(RUN):
        return f"its command is {stage.command!r}; expected one of this package"
    command = [sys.executable, "-m", "backtrail", *shlex.split(stage.command.removeprefix(RUN))]
    environment = {**os.environ, "PYTHONPATH": str((ledger.folder / ledger.code).resolve().parent)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


def same_output(ledger: Ledger, stage: Stage, path: str, folder: Path) -> bool:
    """Whether a stage's output is the same again: to the byte on a CPU, in its statistics (within `TOLERANCE`) on a GPU."""
    digest = Hashes(folder).of(path)
    if digest is None or digest.md5 == stage.outs[path].md5:
        return digest is not None
    return (ledger.records[stage.name] or {}).get("device") is not None and alike(ledger.folder / path, folder / path, TOLERANCE)
