"""`backtrail pipeline`: the pipeline's file of a suite."""

import sys
from pathlib import Path

import click

from backtrail.laid_down import lay_down
from backtrail.layout import PIPELINE_FILE
from backtrail.parameters.suite import read_suite


@click.command()
@click.option("--check", is_flag=True, help="Write nothing, and fail if a file is not as it should be.")
def command(check: bool) -> None:
    """Make this folder a DVC project that both engines can run: dvc.yaml out of the repository's, .dvc/config, .dvcignore.

    A suite is its params.yaml; Snakemake lays the rest down by itself (`snakemake -d suites/NAME`). The repository's own
    pipeline is written by hand, and left as it is.
    """
    read_suite()
    changed = lay_down(Path.cwd(), writes=not check)
    click.echo(f"{PIPELINE_FILE}: {', '.join(changed) if changed else 'as it should be'}")
    sys.exit(int(check and bool(changed)))
