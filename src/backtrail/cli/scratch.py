"""`backtrail scratch`: resume states of unfinished stages."""

import shutil
import time

import click

from backtrail.running.stage import SCRATCH

STATES = "step-*.safetensors"
RUNNING_DAYS = 1 / 24  # a stage that runs saves every minute


@click.command()
@click.option("--prune", is_flag=True, help="Delete the states listed; those of the last hour, which may be in use, by --older-than alone.")
@click.option("--older-than", type=click.FloatRange(0), help="Only states not written to for this many days.")
def command(prune: bool, older_than: float | None) -> None:
    """List the resume states of stages that were stopped (folder, size, age); those of finished stages go when DVC has their outputs."""
    for folder in sorted(SCRATCH.glob("*/")):
        try:
            files = [file.stat() for file in folder.rglob("*") if file.is_file()]
        except FileNotFoundError:
            continue  # a stage is just writing it
        if not list(folder.glob(STATES)):
            continue  # no resume state: Snakemake's cache
        days = (time.time() - max(file.st_mtime for file in files)) / 86400
        if days < (older_than if older_than is not None else RUNNING_DAYS if prune else 0):
            continue
        size_mb = sum(file.st_size for file in files) / 1e6
        click.echo(f"{'deleted ' if prune else ''}{folder.name}  {size_mb:.1f} MB  {days:.1f} days")
        if prune:
            shutil.rmtree(folder, ignore_errors=True)
