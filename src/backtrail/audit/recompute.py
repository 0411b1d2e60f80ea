"""The metric and figure levels: metrics from stored samples, tables and figures from measured values. Nothing of the suite's is executed.

What rests on something that is wrong already is not computed again: it would blame the wrong file. Who draws is handed in (`Renderers`),
since this room knows nothing of the report's.
"""

import fnmatch
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from backtrail.artifacts import load_json
from backtrail.audit.findings import BROKEN, CLOSE, Finding
from backtrail.errors import UserError
from backtrail.layout import AXES, FIGURES, METRICS, PAGE, PARAMS_FILE, TABLES
from backtrail.ledger.ledger import Ledger, Stage
from backtrail.ledger.record import processor
from backtrail.metrics.evaluate import Measure, evaluate_archive
from backtrail.metrics.measures import load_measure
from backtrail.nested import differences, is_number
from backtrail.parameters.base import validate
from backtrail.parameters.metrics import Metrics
from backtrail.running.determinism import deterministic
from backtrail.tensors import load_tensors

Result = tuple[list[Finding], set[str], list[str]]  # findings, files that came out the same, notes
Render = Callable[[str, Path], None]  # of one table or figure, by name, into a folder
LAST_DIGITS = 1e-4  # relative; where torch or the processor are not those of the record


@dataclass(frozen=True)
class Renderers:
    """Who draws again: below each folder, what writes one of its files by name; and what writes the page."""

    by_folder: Mapping[str, Render]
    page: Callable[[Path], None]


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


def same_machine(ledger: Ledger, stage: Stage) -> bool:
    """Whether torch and the processor here are those that the stage's record names, and neither is a GPU: then each byte must agree."""
    record = ledger.records[stage.name] or {}
    was = record.get("packages", {}).get("torch"), record.get("host", {}).get("processor"), record.get("device")
    return not torch.cuda.is_available() and was == (metadata.version("torch"), processor(), None)


def metrics(ledger: Ledger, bad: set[str], patterns: Sequence[str]) -> Result:
    """Every metric of the chosen metric stages from the stored samples, held against the stored values to the last digit."""
    found, right = [], set()
    todo, notes = chosen(ledger, bad, patterns, f"{METRICS}/")
    measures: dict[str, Measure] = {}
    started = time.perf_counter()
    for stage in todo:
        (out,) = (path for path in stage.products if path.startswith(f"{METRICS}/"))
        if (finding := _measured_again(ledger, stage, out, measures)) is None:
            right.add(out)
        else:
            found.append(finding)
    return found, right, [*notes, f"metrics of {len(todo)} stages computed again in {time.perf_counter() - started:.1f} s"]


def _measured_again(ledger: Ledger, stage: Stage, out: str, measures: dict[str, Measure]) -> Finding | None:
    """What is wrong with a metric file, by its samples and the parameters that the lock names; None if every digit is the same."""
    torch.set_num_threads(int((stage.params.get("runtime") or {}).get("threads", 1)))
    deterministic()
    p = validate(Metrics, stage.params["metrics"], "metrics")
    measures |= {name: load_measure(name, folder=ledger.folder) for name in p.extractors if name not in measures}
    samples = next(path for path in stage.deps if path.startswith("results/samples/"))
    stored = load_json(ledger.folder / out)
    values, rule = evaluate_archive(*load_tensors(ledger.folder / samples), measures, p)
    unlike = [("/".join(place), was, now) for place, was, now in differences(stored["values"], values)]
    said = ([] if rule == stored["protocol"] else ["the protocol"]) + [f"{p}: stored {was!r}, computed {now!r}" for p, was, now in unlike]
    if not said:
        return None
    close = rule == stored["protocol"] and not same_machine(ledger, stage) and all(_close(was, now) for _, was, now in unlike)
    message = f"{out}: {'; '.join(said[:3])}{f' and {len(said) - 3} more' if len(said) > 3 else ''}"
    if close:
        message += f"; within {LAST_DIGITS:g} (relative), on another processor or with another torch than its record's"
    return Finding(CLOSE if close else BROKEN, out, f"{samples} -> {out}", message, "" if close else f"dvc repro -f {stage.name}")


def _close(was: Any, now: Any) -> bool:
    return is_number(was) and is_number(now) and abs(was - now) <= LAST_DIGITS * max(abs(was), abs(now), 1e-6)


@contextmanager
def beside(ledger: Ledger) -> Iterator[Path]:
    """A folder that sees the suite's parameters, data and results, and has no reports of its own yet."""
    with tempfile.TemporaryDirectory(prefix="backtrail-") as name:
        folder = Path(name)
        for part in (PARAMS_FILE, "data", "results"):
            if (ledger.folder / part).exists():
                (folder / part).symlink_to((ledger.folder / part).resolve())
        yield folder


def tables(ledger: Ledger, bad: set[str], patterns: Sequence[str], renderers: Renderers) -> Result:
    """The tables from the metric files, curves and paths."""
    return rendered(ledger, bad, patterns, TABLES, renderers.by_folder[TABLES])


def figures(ledger: Ledger, bad: set[str], patterns: Sequence[str], renderers: Renderers) -> Result:
    """The figures and the ablations' axes, then the page, which shows them with the tables."""
    found, right, notes = rendered(ledger, bad, patterns, FIGURES, renderers.by_folder[FIGURES])
    if any(out.startswith(f"{AXES}/") for out in ledger.makers):
        parts = rendered(ledger, bad, patterns, AXES, renderers.by_folder[AXES])
        found, right, notes = found + parts[0], right | parts[1], notes + parts[2]
    maker = ledger.maker(PAGE)
    if maker is None or ledger.closure(PAGE) & bad or not any(fnmatch.fnmatch(maker.name, pattern) for pattern in patterns):
        return found, right, notes
    with beside(ledger) as folder:
        for part in (TABLES, FIGURES, AXES):
            if (ledger.folder / part).is_dir():
                (folder / part).parent.mkdir(exist_ok=True)
                (folder / part).symlink_to((ledger.folder / part).resolve())
        renderers.page(folder)
        same = (folder / PAGE).read_bytes() == (ledger.folder / PAGE).read_bytes()
    return (found, right | {PAGE}, notes) if same else ([*found, _differs(ledger, maker, PAGE)], right, notes)


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
                except (UserError, LookupError, ValueError) as error:
                    found.append(Finding(BROKEN, f"stage:{stage.name}", f"{stage.name} -> {name}", f"{name} cannot be rendered: {error}"))
            for path in (path for path in outs if path not in bad):
                if (folder / path).is_file() and (folder / path).read_bytes() == (ledger.folder / path).read_bytes():
                    right.add(path)
                else:
                    found.append(_differs(ledger, stage, path))
    took = time.perf_counter() - started
    return found, right, [*notes, f"{len(right)} files below {top} rendered again, the same bytes, in {took:.1f} s"]


def _differs(ledger: Ledger, stage: Stage, path: str) -> Finding:
    was = ((ledger.records[stage.name] or {}).get("packages") or {}).get("matplotlib")
    message = f"{path}: rendered again from what {stage.name} reads, the bytes differ (matplotlib {was} then)"
    return Finding(BROKEN, path, f"{stage.name} -> {path}", message, f"dvc repro -f {stage.name}")
