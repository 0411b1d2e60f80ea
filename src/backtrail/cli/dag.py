"""`backtrail dag`: the pipeline by kinds of stages, where `dvc dag` draws each seed of each method."""

from collections import Counter

import click

from backtrail.pipeline import declared_stages

Graph = dict[str, set[str]]  # a kind of stage, and those whose outputs it reads


@click.command()
@click.option("--mermaid", "form", flag_value="mermaid", help="As a diagram of Mermaid, which GitHub and GitLab draw in Markdown.")
@click.option("--dot", "form", flag_value="dot", help="As a graph of Graphviz: `backtrail dag --dot | dot -Tsvg -o dag.svg`.")
def command(form: str | None) -> None:
    """Print the kinds of stages, each with how many there are and with the kinds that it takes from, in an order in which they can run.

    What a kind takes from others by way of one that is named already is left out.
    """
    graph, counts = kinds()
    if form == "mermaid":
        lines = ["flowchart LR", *(f'    {node(kind)}["{named(kind, counts)}"]' for kind in graph)]
        lines += [f"    {node(source)} --> {node(kind)}" for kind, sources in graph.items() for source in sorted(sources)]
    elif form == "dot":
        lines = ["digraph {", "  rankdir=LR; node [shape=box];", *(f'  "{kind}" [label="{named(kind, counts)}"];' for kind in graph)]
        lines += [*(f'  "{source}" -> "{kind}";' for kind, sources in graph.items() for source in sorted(sources)), "}"]
    else:
        width = max(len(named(kind, counts)) for kind in graph)
        lines = [f"{named(kind, counts):{width}}  {'<- ' if of else ''}{', '.join(sorted(of))}".rstrip() for kind, of in graph.items()]
    click.echo("\n".join(lines))


def named(kind: str, counts: Counter[str]) -> str:
    """`path (6)`."""
    return kind if counts[kind] == 1 else f"{kind} ({counts[kind]})"


def node(kind: str) -> str:
    """A name that Mermaid takes for no word of its own."""
    return kind.replace("-", "_") + "_"


def kinds() -> tuple[Graph, Counter[str]]:
    """The suite's kinds of stages in an order in which they can run, without those that digest code and gather records; and how many."""
    stages = [stage for stage in declared_stages() if stage.command not in ("code", "ledger")]
    made = {out: stage.name.partition("@")[0] for stage in stages for out in stage.outs}
    graph: Graph = {stage.name.partition("@")[0]: set() for stage in stages}
    for stage in stages:
        kind = stage.name.partition("@")[0]
        graph[kind] |= {of for out, of in made.items() for dep in stage.deps if of != kind and (out == dep or _inside(out, dep))}
    return {kind: _direct(kind, graph) for kind in _ordered(graph)}, Counter(stage.name.partition("@")[0] for stage in stages)


def _inside(one: str, other: str) -> bool:
    return one.startswith(other + "/") or other.startswith(one + "/")


def _above(kind: str, graph: Graph) -> set[str]:
    return graph[kind].union(*(_above(source, graph) for source in graph[kind]))


def _direct(kind: str, graph: Graph) -> set[str]:
    """What a kind takes from, without what it takes from by way of another."""
    return graph[kind] - set().union(*(_above(source, graph) for source in graph[kind]))


def _ordered(graph: Graph) -> list[str]:
    """The kinds, each behind those that it takes from, else as they are declared."""
    return sorted(graph, key=lambda kind: len(_above(kind, graph)))
