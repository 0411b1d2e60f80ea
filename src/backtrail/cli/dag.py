"""`backtrail dag`: the pipeline by kinds of stages, where `dvc dag` draws each seed of each method."""

from collections import Counter, defaultdict
from functools import cache
from pathlib import PurePosixPath

import click

from backtrail.laid_down import declared_stages
from backtrail.pipeline import Declared

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
    made, within = {}, defaultdict(set)  # the kind of each output, and those of all outputs at or below a path
    for stage in stages:
        for out in stage.outs:
            made[out] = _kind(stage)
            for path in (out, *_folders(out)):
                within[path].add(_kind(stage))
    graph: Graph = {_kind(stage): set() for stage in stages}
    for stage in stages:
        for dep in stage.deps:
            graph[_kind(stage)] |= within[dep] | {made[path] for path in _folders(dep) if path in made}
        graph[_kind(stage)].discard(_kind(stage))
    above = cache(lambda kind: graph[kind].union(*(above(source) for source in graph[kind])))
    order = sorted(graph, key=lambda kind: len(above(kind)))  # each behind those that it takes from, else as they are declared
    # without what a kind takes from by way of another
    direct = {kind: graph[kind] - set().union(*(above(source) for source in graph[kind])) for kind in order}
    return direct, Counter(map(_kind, stages))


def _kind(stage: Declared) -> str:
    return stage.name.partition("@")[0]


def _folders(path: str) -> list[str]:
    """The folders that a path lies in, relative to the suite's."""
    return [folder.as_posix() for folder in PurePosixPath(path).parents[:-1]]
