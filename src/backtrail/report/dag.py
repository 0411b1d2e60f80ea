"""The pipeline by kinds of stages: what takes from what, and where each kind stands in a picture of it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Protocol

Graph = dict[str, set[str]]  # a kind of stage, and those whose outputs it reads
KEEPS_BOOKS = ("code", "ledger")  # the stages that digest the code and gather the records: no number rests on them
WIDTH, HEIGHT, ACROSS, DOWN = 172, 44, 16, 30  # pixels: of a box, and between two boxes


class AnyStage(Protocol):
    """A stage as the pipeline declares it, or as a ledger has it."""

    @property
    def name(self) -> str: ...
    @property
    def deps(self) -> Iterable[str]: ...
    @property
    def outs(self) -> Iterable[str]: ...


@dataclass(frozen=True)
class Box:
    """A kind of stage in the picture: its upper left corner in pixels, its name with how many there are, and what is told of it."""

    kind: str
    x: float
    y: float
    label: str
    note: str
    sources: str


@dataclass(frozen=True)
class Picture:
    """Boxes, and the lines between them as paths of SVG."""

    width: float
    height: float
    boxes: list[Box]
    lines: list[str]


def kind_of(name: str) -> str:
    """`path` of `path@disback-0`."""
    return name.partition("@")[0]


def kinds(stages: Iterable[AnyStage]) -> tuple[Graph, Counter[str]]:
    """The kinds of stages in an order in which they can run, without those that keep books; and how many of each there are.

    What a kind takes from another by way of a third is left out.
    """
    stages = [stage for stage in stages if stage.name not in KEEPS_BOOKS]
    made, within = {}, defaultdict(set)  # the kind of each output, and those of all outputs at or below a path
    for stage in stages:
        for out in stage.outs:
            made[out] = kind_of(stage.name)
            for path in (out, *_folders(out)):
                within[path].add(kind_of(stage.name))
    graph: Graph = {kind_of(stage.name): set() for stage in stages}
    for stage in stages:
        for dep in stage.deps:
            graph[kind_of(stage.name)] |= within[dep] | {made[path] for path in _folders(dep) if path in made}
        graph[kind_of(stage.name)].discard(kind_of(stage.name))
    above = cache(lambda kind: graph[kind].union(*(above(source) for source in graph[kind])))
    order = sorted(graph, key=lambda kind: len(above(kind)))  # each behind those that it takes from, else as they are declared
    direct = {kind: graph[kind] - set().union(*(above(source) for source in graph[kind])) for kind in order}
    return direct, Counter(kind_of(stage.name) for stage in stages)


def _folders(path: str) -> list[str]:
    """The folders that a path lies in, relative to the suite's."""
    return [folder.as_posix() for folder in PurePosixPath(path).parents[:-1]]


def named(kind: str, counts: Counter[str]) -> str:
    """`path (6)`."""
    return kind if counts[kind] == 1 else f"{kind} ({counts[kind]})"


def picture(graph: Graph, counts: Counter[str], notes: Mapping[str, str] | None = None) -> Picture:
    """The kinds in rows, each below those that it takes from; a line that passes a row goes between that row's boxes.

    graph: as `kinds` gives it, in an order in which they can run. notes: what stands in a box below its name.
    """
    if not graph:
        return Picture(0, 0, [], [])
    depth: dict[str, int] = {}
    for kind, sources in graph.items():
        depth[kind] = 1 + max((depth[source] for source in sources), default=-1)
    for kind in reversed(graph):  # what takes from nothing stands right above what takes from it
        if not graph[kind] and (takers := [depth[other] for other, sources in graph.items() if kind in sources]):
            depth[kind] = min(takers) - 1
    # A line over several rows gets a place in each of them, as if a box of no width stood there.
    rows: list[list[str]] = [[kind for kind in graph if depth[kind] == n] for n in range(max(depth.values()) + 1)]
    ways: dict[tuple[str, str], list[str]] = {}
    for kind, sources in graph.items():
        for source in sorted(sources):
            passed = [f"{source}>{kind}>{n}" for n in range(depth[source] + 1, depth[kind])]
            for n, place in enumerate(passed, depth[source] + 1):
                rows[n].append(place)
            ways[source, kind] = [source, *passed, kind]
    links = defaultdict(list)
    for way in ways.values():
        for upper, lower in pairwise(way):
            links[lower].append(upper)
            links[upper].append(lower)
    middle = _middles(rows, links, set(graph))
    width = max(middle[row[-1]] + _half(row[-1], set(graph)) for row in rows if row) + ACROSS / 2
    boxes = [
        Box(
            kind, middle[kind] - WIDTH / 2, depth[kind] * (HEIGHT + DOWN), named(kind, counts), (notes or {}).get(kind, ""),
            ", ".join(sorted(graph[kind])),
        )
        for kind in graph
    ]  # fmt: skip
    lines = [_line([(middle[place], depth[way[0]] + n) for n, place in enumerate(way)]) for way in ways.values()]
    return Picture(width, len(rows) * (HEIGHT + DOWN) - DOWN + 2, boxes, lines)


def _half(place: str, boxes: set[str]) -> float:
    return WIDTH / 2 if place in boxes else 0.0


def _middles(rows: list[list[str]], links: Mapping[str, list[str]], boxes: set[str], sweeps: int = 12) -> dict[str, float]:
    """Where the middle of each place is across, in pixels: rows are ordered by the mean of what each place is linked to, up and down."""
    middle: dict[str, float] = {}
    at = {place: n for n, row in enumerate(rows) for place in row}
    for sweep in range(sweeps):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wish = {}
            for place in row:
                near = [middle[other] for other in links[place] if other in middle and (sweep > 1 or at[other] < at[place])]
                wish[place] = sum(near) / len(near) if near else middle.get(place, 0.0)
            row.sort(key=lambda place: wish[place])  # stable: places with one wish stay as they are declared
            # As near to their wishes as they can stand without touching: pushed apart from the left, then moved back as a whole.
            left = 0.0
            for place in row:
                middle[place] = left = max(wish[place], left + _half(place, boxes) + ACROSS / 2)
                left += _half(place, boxes) + ACROSS / 2
            back = max(0.0, sum(middle[place] - wish[place] for place in row) / len(row))
            back = min(back, min(middle[place] - _half(place, boxes) - ACROSS / 2 for place in row))
            for place in row:
                middle[place] -= back
    first = min(middle[place] - _half(place, boxes) for place in middle) - ACROSS / 2
    return {place: x - first for place, x in middle.items()}


def _line(places: list[tuple[float, int]]) -> str:
    """From the lower edge of a box to the upper edge of another, upright where it passes a row."""
    steps = []
    for (x, n), (to, below) in pairwise(places):
        y, end = n * (HEIGHT + DOWN) + HEIGHT, below * (HEIGHT + DOWN)
        start = f"M{x:.1f} {y}" if not steps else f"V{y}"
        steps.append(f"{start}C{x:.1f} {y + DOWN / 2:g} {to:.1f} {end - DOWN / 2:g} {to:.1f} {end}")
    return "".join(steps)
