"""`backtrail dag`: the pipeline by kinds of stages, where `dvc dag` draws each seed of each method."""

import click

from backtrail.laid_down import declared_stages
from backtrail.parameters.suite import read_suite
from backtrail.report.dag import kinds, named


@click.command()
@click.option("--mermaid", "form", flag_value="mermaid", help="As a diagram of Mermaid, which GitHub and GitLab draw in Markdown.")
@click.option("--dot", "form", flag_value="dot", help="As a graph of Graphviz: `backtrail dag --dot | dot -Tsvg -o dag.svg`.")
def command(form: str | None) -> None:
    """Print the kinds of stages, each with how many there are and with the kinds that it takes from, in an order in which they can run.

    What a kind takes from others by way of one that is named already is left out.
    """
    read_suite()  # said in its own words if it is none
    graph, counts = kinds(declared_stages())
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


def node(kind: str) -> str:
    """A name that Mermaid takes for no word of its own."""
    return kind.replace("-", "_") + "_"
