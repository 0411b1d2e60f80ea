"""`backtrail check`: params.yaml as a whole."""

import click

from backtrail.parameters.suite import read_suite


@click.command()
def command() -> None:
    """Check params.yaml: unknown keys, wrong types and impossible values are named, and nothing is run."""
    suite = read_suite()
    methods = [*suite.score_distillation, *suite.trajectory_distillation]
    click.echo(f"params.yaml is valid: suite {suite.suite}, methods {', '.join(methods)}, seeds {', '.join(map(str, suite.seeds))}")
