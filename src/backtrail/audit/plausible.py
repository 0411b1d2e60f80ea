"""What is hard to believe, found cheaply; never a proof, neither of forgery nor of its absence.

A forger who rewrites the whole ledger leaves no contradiction in it, but seldom thinks of everything that the results say of one another:

- images that are copies of training images, or nearly (a pixel changed, a grey level of noise, mirrored), more often than held-out images;
- one image under two seeds or methods; constant images, of which a collapsed student makes many, are not counted;
- samples whose first images are not the ends of the ways from noise that the same stage kept in results/states;
- a set of samples whose Frechet distance is below that of real images against real ones;
- a student's distance far from the one that its own training curve ended with;
- a stage that started before the commit that its record names was made, or while a stage that it reads from still ran;
- processor or GPU seconds that the machine of the record cannot have spent.

Suspicions are printed apart and change no number's verdict. They make the exit code 7 where nothing worse is found: above what is within
tolerance, below what is not here. What cannot be read is passed over here: the hash level has said so.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from backtrail.audit.copies import archive, copied, sampled
from backtrail.audit.runs import object_at
from backtrail.layout import CURVES, METRICS, SAMPLES, STATES, reference_values
from backtrail.ledger.history import commit_times
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.schema import faults

EXIT_CODE = 7
LEVELS_APART = 8  # of 255, mean over the pixels of the first images: other batches and processors round by less than one
# Factor between the distance of a student and of the end of its curve, less the floors; with the floors in it 0.91 to 0.95 was measured.
APART = 2.0
LEAST_IMAGES = 200  # below, Frechet distances of sets jump too much to be held against one another
CLOCK_SLACK_S = 120.0  # between the clocks of two machines
SPENT_SLACK_S = 10.0  # a stage's own start and its hashing of outputs count as processor time


@dataclass(frozen=True)
class Suspicion:
    """One thing that is hard to believe: the file or record it is about, and what was found and expected."""

    subject: str
    message: str


def suspicions(ledger: Ledger) -> list[Suspicion]:
    """All that is found, of results that lie here."""
    return [*(Suspicion(path, message) for path, message in copied(ledger)), *_ways(ledger), *_values(ledger), *_records(ledger)]


def _ways(ledger: Ledger) -> Iterator[Suspicion]:
    """The first images of each set against the ends of their ways from noise, which the same stage computed and kept."""
    for path in sampled(ledger):
        states = dict(archive(ledger.folder / path.replace(SAMPLES, STATES, 1)))
        for key, images in archive(ledger.folder / path) if states else ():
            way = states.get(key)
            if way is None or way.ndim != images.ndim + 1 or images.dtype != np.uint8 or way.shape[2:] != images.shape[1:]:
                continue
            first = images[: way.shape[1]].astype(float)
            ends = np.clip(way[-1, : len(first)].astype(float) * 127.5 + 128, 0, 255)  # as `to_uint8`
            if (apart := float(np.abs(np.floor(ends) - first).mean())) > LEVELS_APART:
                kept = path.replace(SAMPLES, STATES, 1)
                what = f"the first images of {key} lie {apart:.0f} grey levels from the ends of their ways from noise in {kept}"
                yield Suspicion(path, f"{path}: {what}; one stage made both, and they should be the same")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Floors:
    """Distances of real images from real ones: by metric; and fd_classifier, of as many images as are measured and as a curve takes."""

    by_metric: dict[str, float]
    whole: float | None
    curve: float | None


@dataclass(frozen=True)
class Measured:
    """The values of one set of images: the metric file, the set's name in it, and the fd_classifier that a student's curve ended with."""

    path: str
    name: str
    values: dict[str, Any]
    curve_end: float | None


def _values(ledger: Ledger) -> Iterator[Suspicion]:
    """Distances below the floor of real images, and students that are far from the end of their own curves."""
    metrics = ledger.params.get("metrics")
    counts = [metrics.get(name) for name in ("n_samples", "n_curve")] if isinstance(metrics, dict) else []
    if not counts or not all(isinstance(n, int) and n >= LEAST_IMAGES for n in counts):
        return
    floors = _floors(ledger, [str(name) for name in metrics.get("extractors") or ()])
    for one in _measured(ledger):
        yield from _below_its_floor(one, floors)
        yield from _far_from_its_curve(one, floors)


def _floors(ledger: Ledger, extractors: list[str]) -> Floors:
    references = {name: object_at(ledger.folder / reference_values(name)) for name in extractors}
    found = {metric: _number(value) for one in references.values() for metric, value in _object(one.get("floor")).items()}
    by_metric = {metric: value for metric, value in found.items() if metric.startswith(("fd_", "fid_")) and value is not None}
    classifier = references.get("classifier", {})
    whole, curve = (_number(_object(classifier.get(name)).get("fd_classifier")) for name in ("floor", "floor_curve"))
    return Floors(by_metric, whole, curve)


def _measured(ledger: Ledger) -> Iterator[Measured]:
    """Every set of images that a metric file of the ledger tells of."""
    for path in sorted(out for out in ledger.makers if out.startswith(f"{METRICS}/")):
        ends = _ends(ledger.folder / path.replace(METRICS, CURVES, 1).replace(".json", ".csv"))
        for source, by_nfe in _object(object_at(ledger.folder / path).get("values")).items():
            for nfe, values in _object(by_nfe).items():
                end = ends.get(nfe.removeprefix("nfe")) if source == "student" else None
                yield Measured(path, f"{source}/{nfe}", _object(values), end)


def _below_its_floor(one: Measured, floors: Floors) -> Iterator[Suspicion]:
    for metric, least in floors.by_metric.items():
        value = _number(one.values.get(metric))
        if value is not None and value < least:
            message = f"{one.path}: {metric} of {one.name} is {value:.4g}; real images against real ones have {least:.4g}"
            yield Suspicion(one.path, message)


def _far_from_its_curve(one: Measured, floors: Floors) -> Iterator[Suspicion]:
    """Each less its own floor, since a curve is measured on fewer images."""
    value, end = _number(one.values.get("fd_classifier")), one.curve_end
    if value is None or end is None or floors.whole is None or floors.curve is None:
        return
    ours, curve = max(value - floors.whole, 1e-3), max(end - floors.curve, 1e-3)
    if max(ours / curve, curve / ours) > APART and abs(ours - curve) > 2 * floors.curve:
        message = f"{one.path}: fd_classifier of {one.name} is {value:.4g}, and its training curve ended with {end:.4g}"
        yield Suspicion(one.path, f"{message}: expected within a factor of {APART:g}")


def _ends(path: Path) -> dict[str, float]:
    """The last fd_classifier of a training curve by number of evaluations."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return {row["nfe"]: float(row["fd_classifier"]) for row in csv.DictReader(file) if row.get("fd_classifier") and row.get("nfe")}
    except (OSError, ValueError, csv.Error, UnicodeDecodeError):
        return {}


def _records(ledger: Ledger) -> Iterator[Suspicion]:
    """Clocks against the commit and against what was read, and costs against the machine."""
    known = {name: record for name, record in ledger.records.items() if record and not faults(record)}
    commits = commit_times(ledger.folder, {str(record["commit"]) for record in known.values()})
    spans = {name: span for name, record in known.items() if (span := _span(record))}
    for name, record in known.items():
        subject = ledger.stages[name].record
        yield from (Suspicion(subject, f"{subject}: {what}") for what in _spent(record))
        if name not in spans:
            continue
        (started, ended), made = spans[name], commits.get(str(record["commit"]))
        if ended - started > 1.01 * record["seconds"] + CLOCK_SLACK_S:
            what = f"{name} took {ended - started:,.0f} s by the clock and {record['seconds']:,.0f} s by its own count"
            yield Suspicion(subject, f"{subject}: {what}: the machine slept, or the clock was moved")
        # A record names the commit that lay there when its stage ended: one may commit while it runs.
        if made is not None and ended < made - CLOCK_SLACK_S:
            yield Suspicion(subject, f"{subject}: {name} ended {made - ended:,.0f} s before the commit that it names was made")
        for above in {of.name for path in ledger.inputs(ledger.stages[name]) if (of := ledger.maker(path)) and of.name in spans}:
            # That it ran before is no contradiction: the stage above may have run again since, and made the same bytes.
            if spans[above][0] <= started < spans[above][1] - CLOCK_SLACK_S:
                yield Suspicion(subject, f"{subject}: {name} started while {above}, whose result it read, still ran")


def _span(record: dict[str, Any]) -> tuple[float, float] | None:
    """When a stage started and ended, in seconds since 1970; None where its record does not say."""
    try:
        return datetime.fromisoformat(record["started"]).timestamp(), datetime.fromisoformat(record["ended"]).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _spent(record: dict[str, Any]) -> Iterator[str]:
    seconds, cpu, gpu = record["seconds"], record["cpu_seconds"], record["gpu_seconds"]
    cpus = record["host"].get("cpus") or 0
    if cpus and cpu > cpus * (1.05 * seconds + SPENT_SLACK_S):
        yield f"{cpu:,.0f} processor seconds in {seconds:,.0f} s on {cpus} processors"
    most = seconds * max(1, record["processes"])
    if gpu > 1.01 * most + 0.01:
        yield f"{gpu:,.0f} GPU seconds in {seconds:,.0f} s with {record['processes']} processes"
    if (record["device"] is None) != (gpu == 0) and seconds > 1:
        yield f"{gpu:,.1f} GPU seconds, and its device is {(record['device'] or {}).get('name', 'none')}"
