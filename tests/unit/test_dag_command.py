"""`backtrail dag` against DVC's own graph, kind by kind."""

import subprocess
import sys
from pathlib import Path

import networkx
import pytest

from backtrail.cli.dag import kinds
from backtrail.laid_down import declared_stages

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
    graph, counts = kinds()
    drawn = networkx.DiGraph([(source, kind) for kind, sources in graph.items() for source in sources])
    drawn.add_nodes_from(graph)
    assert networkx.utils.graphs_equal(drawn, networkx.transitive_reduction(whole)) and sum(counts.values()) == len(stages)
    order = list(graph)
    assert all(order.index(source) < order.index(kind) for source, kind in drawn.edges)


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
