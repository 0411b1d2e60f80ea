"""`backtrail check`: params.yaml as a whole."""

import click

from backtrail.parameters.suite import read_suite


@click.command()
def command() -> None:
    """Check params.yaml: unknown keys, wrong types and impossible values are named, and nothing is run."""
    suite = read_suite()
    click.echo(f"params.yaml is valid: suite {suite.suite}, methods {', '.join(suite.methods)}, seeds {', '.join(map(str, suite.seeds))}")
