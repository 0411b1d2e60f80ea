"""`backtrail dag` against DVC's own graph, kind by kind."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import networkx
import pytest

from backtrail.laid_down import declared_stages
from backtrail.report.dag import ACROSS, WIDTH, kinds, picture

ROOT = Path(__file__).parents[2]
SUITES = ["", "suites/ablations", "suites/ring", "suites/cifar10"]


@pytest.mark.parametrize("suite", SUITES)
def test_kinds_are_in_order_and_reach_what_stages_reach(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transitive reduction of the graph of stages, with those of a kind drawn together."""
    monkeypatch.chdir(ROOT / suite)
    stages = [stage for stage in declared_stages() if stage.command not in ("code", "ledger")]
    made = [(f"{out}/", stage.name.split("@")[0]) for stage in stages for out in stage.outs]
    whole = networkx.DiGraph()
    for stage in stages:
        kind = stage.name.split("@")[0]
        whole.add_node(kind)
        for dep in (f"{dep}/" for dep in stage.deps):
            whole.add_edges_from((source, kind) for out, source in made if out.startswith(dep) or dep.startswith(out))
    whole.remove_edges_from(networkx.selfloop_edges(whole))
    graph, counts = kinds(declared_stages())
    drawn = networkx.DiGraph([(source, kind) for kind, sources in graph.items() for source in sources])
    drawn.add_nodes_from(graph)
    assert networkx.utils.graphs_equal(drawn, networkx.transitive_reduction(whole)) and sum(counts.values()) == len(stages)
    order = list(graph)
    assert all(order.index(source) < order.index(kind) for source, kind in drawn.edges)


@pytest.mark.parametrize("suite", ["", "suites/ablations", "suites/ring", "suites/fashion-text"])
def test_in_the_picture_each_kind_stands_below_its_sources_and_nothing_overlaps(suite: str) -> None:
    graph, counts = kinds(declared_stages(ROOT / suite))
    drawn = picture(graph, counts)
    at = {box.kind: box for box in drawn.boxes}
    assert set(at) == set(graph) and len(drawn.lines) == sum(map(len, graph.values()))
    assert all(at[source].y < at[kind].y for kind, sources in graph.items() for source in sources)
    boxes = sorted(drawn.boxes, key=lambda box: (box.y, box.x))
    assert all(a.y != b.y or a.x + WIDTH + ACROSS <= b.x + 1e-6 for a, b in itertools.pairwise(boxes))
    assert min(box.x for box in boxes) >= 0 and max(box.x for box in boxes) + WIDTH <= drawn.width < 1300
    for line in drawn.lines:  # an upright piece of a line passes no box
        for x, y, end in re.findall(r" ([-\d.]+) ([\d.]+)V([\d.]+)", line):
            assert not [box for box in boxes if box.y == float(y) and box.x < float(x) < box.x + WIDTH], (line, end)


def test_it_fits_a_screen_and_is_a_graph_that_tools_read(tmp_path: Path) -> None:
    def said(*arguments: str) -> list[str]:
        command = [sys.executable, "-m", "backtrail", "dag", *arguments]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()

    lines = said()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert "trajectory-distillation (9) <- reference, trajectories" in [" ".join(line.split()) for line in lines]
    dot, mermaid = said("--dot"), said("--mermaid")
    assert '  "samples" -> "metrics";' in dot and "    samples_ --> metrics_" in mermaid and mermaid[0] == "flowchart LR"
    assert (
        sum("->" in line for line in dot)
        == sum("-->" in line for line in mermaid)
        == sum(line.count(",") + ("<-" in line) for line in lines)
    )
