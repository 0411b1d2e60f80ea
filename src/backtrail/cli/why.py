"""`backtrail why`: where a number or a file comes from."""

import json

import click

from backtrail.audit.tree import main_line, tree
from backtrail.audit.why import why


@click.command()
@click.argument("target")
@click.option("--all", "whole", is_flag=True, help="The whole chain with every branch; by default its longest line, the rest counted.")
@click.option("--json", "as_json", is_flag=True, help="The chain for programs, with every digest in full.")
def command(target: str, whole: bool, as_json: bool) -> None:
    """The chain behind TARGET: a file, a number in it (FILE:SELECTOR), or a short id: the head of a digest of any suite here.

    Rows in LaTeX, pictures and this command's own lines carry short ids. A selector names row and column between commas:
    `reports/tables/results.csv:disback,fd`, `reports/figures/nfe.csv:sfd-v,nfe=3`,
    `results/metrics/sfd/seed0.json:student/nfe2/fd_classifier`.
    """
    chain = why(target)
    if as_json:
        click.echo(json.dumps(chain, indent=2, ensure_ascii=False))
    else:
        for line in tree(chain) if whole else main_line(chain):
            click.echo(line)
