"""The page of the run: commit, date, processor and cost, and the pipeline with what ran and how long.

It stands beside the report's page, which must be the same bytes whenever and wherever the same results are shown; so the last stage writes
it, from the records.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from backtrail.artifacts import atomic_write, load_json
from backtrail.layout import PAGE, PARAMS_FILE, PIPELINE_FILE, record
from backtrail.parameters.base import read
from backtrail.pipeline import stages_of
from backtrail.report.dag import kind_of, kinds, picture
from backtrail.report.html_parts import Cell, HtmlTable, cell, environment

RUN_PAGE = "reports/run.html"
NONE = "–"  # noqa: RUF001 (a dash)
Record = dict[str, Any]


def render_run(folder: str | Path = ".") -> None:
    """Write `reports/run.html` of the suite in `folder`, from its pipeline and the records that lie there."""
    folder = Path(folder)
    values = read(folder / PARAMS_FILE)
    stages = list(stages_of((folder / PIPELINE_FILE).read_text(encoding="utf-8"), values))
    graph, counts = kinds(stages)
    records = {stage.name: load_json(path) for stage in stages if (path := folder / record(stage.name)).is_file()}
    by_kind: dict[str, list[Record]] = defaultdict(list)
    for name, found in records.items():
        by_kind[kind_of(name)].append(found)
    text = (
        environment()
        .get_template("run.html")
        .render(
            title=str((values.get("report") or {}).get("title") or values["suite"]),
            headline=headline(list(records.values()), sum(counts.values())),
            facts=facts(list(records.values())),
            has_page=any(PAGE in stage.outs for stage in stages),
            pipeline_of=picture(graph, counts, {kind: told(by_kind[kind], counts[kind]) for kind in graph}),
            kinds=kind_table(graph, counts, by_kind),
            stages=stage_table(records),
        )
    )
    atomic_write(folder / RUN_PAGE, lambda file: file.write_text(text, encoding="utf-8"))


def headline(records: list[Record], n_stages: int) -> str:
    """One sentence: how many stages ran, when, and what they cost."""
    if not records:
        return f"Of {n_stages} stages none has run."
    first, last = min(one["started"] for one in records), max(one["ended"] for one in records)
    gpu = f" and {total(records, 'gpu_seconds')} GPU seconds" if any(one["gpu_seconds"] for one in records) else ""
    ran = f"All {n_stages} stages" if len(records) == n_stages else f"{len(records)} of {n_stages} stages"
    return f"{ran} ran between {minute(first)} and {minute(last)} UTC; they took {total(records, 'cpu_seconds')} CPU seconds{gpu}."


def facts(records: list[Record]) -> list[tuple[str, list[str]]]:
    """Where and from what the results come, each value with the number of stages that say so, if they do not all."""
    said: dict[str, Callable[[Record], str]] = {
        "Commit": lambda one: f"{commit(one)}{' with changes that were not committed' if one['dirty'] else ''}",
        "Processor": lambda one: "{processor}, {cpus} CPUs, {system} {machine}".format(**one["host"]),
        "GPU": lambda one: str(one["device"] or "none"),
        "Processes": lambda one: str(one["processes"]),
        "Engine": lambda one: str(one["engine"]),
        "Python": lambda one: str(one["python"]),
        "PyTorch": lambda one: str(one["packages"].get("torch") or "not loaded"),
    }
    return [(name, counted(map(of, records))) for name, of in said.items()]


def counted(values: Iterable[str]) -> list[str]:
    """`a (12 stages)`, the most frequent first; the value alone where there is one."""
    found = Counter(values).most_common()
    return [text if len(found) == 1 else f"{text} ({n} stage{'s' * (n > 1)})" for text, n in found]


def told(records: list[Record], n_stages: int) -> str:
    """What stands in a box of the picture."""
    if len(records) < n_stages:
        return f"{len(records)} of {n_stages} ran" if records else "not run"
    gpu = f", {total(records, 'gpu_seconds')} GPU s" if any(one["gpu_seconds"] for one in records) else ""
    return f"{total(records, 'cpu_seconds')} CPU s{gpu}"


def kind_table(graph: Iterable[str], counts: Counter[str], by_kind: dict[str, list[Record]]) -> HtmlTable:
    """A row for each kind of stage, in an order in which they can run."""
    whole = sum(one["cpu_seconds"] for records in by_kind.values() for one in records) or 1.0
    rows = [
        [
            cell(kind), cell(counts[kind]), cell(len(by_kind[kind])),
            *(cell(total(by_kind[kind], key)) for key in ("cpu_seconds", "seconds", "gpu_seconds")),
            cell(f"{100 * sum(one['cpu_seconds'] for one in by_kind[kind]) / whole:.1f}"),
            cell(total(by_kind[kind], "retries")),
        ]
        for kind in graph
    ]  # fmt: skip
    headings = ["Stage", "Declared", "Ran", "CPU s", "Wall-clock s", "GPU s", "% of CPU time", "Retries"]
    return HtmlTable("kinds", "What each kind of stage cost", headings, rows)


def stage_table(records: dict[str, Record]) -> HtmlTable:
    """A row for each record, in the order of the pipeline."""
    rows = [
        [
            cell(name), cell(minute(one["started"])), *(cell(f"{one[key]:,.1f}") for key in ("seconds", "cpu_seconds", "gpu_seconds")),
            Cell(commit(one), style="code"), cell("yes" if one["dirty"] else "no"),
            cell(", ".join(map(str, one["resumed_from"])) or NONE), cell(one["host"]["processor"]),
        ]
        for name, one in records.items()
    ]  # fmt: skip
    headings = [
        "Stage",
        "Started (UTC)",
        "Wall-clock s",
        "CPU s",
        "GPU s",
        "Commit",
        "Uncommitted changes",
        "Resumed from step",
        "Processor",
    ]
    return HtmlTable("stages", "What each stage cost, and where it ran", headings, rows)


def total(records: Iterable[Record], key: str) -> str:
    """A sum over records; below ten with a decimal."""
    value = sum(one[key] for one in records)
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def minute(moment: str) -> str:
    """`2026-11-28 14:48` of a record's moment, which is in UTC."""
    return moment[:16].replace("T", " ")


def commit(one: Record) -> str:
    """The short name of the commit that a record names, if it names one."""
    return str(one["commit"] or "no commit")[:10]
