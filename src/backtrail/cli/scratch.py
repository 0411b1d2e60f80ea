"""`backtrail scratch`: resume states of unfinished stages."""

import shutil
import time

import click

from backtrail.running.stage import SCRATCH


@click.command()
@click.option("--prune", is_flag=True, help="Delete the states listed.")
@click.option("--older-than", type=click.FloatRange(0), default=0.0, help="Only states not written to for this many days.")
def command(prune: bool, older_than: float) -> None:
    """List the resume states of stages that were stopped (folder, size, age); those of finished stages go when DVC has their outputs."""
    for folder in sorted(SCRATCH.glob("*/")):
        files = [file for file in folder.rglob("*") if file.is_file()]
        days = (time.time() - max([file.stat().st_mtime for file in files], default=folder.stat().st_mtime)) / 86400
        if days < older_than:
            continue
        size_mb = sum(file.stat().st_size for file in files) / 1e6
        click.echo(f"{'deleted ' if prune else ''}{folder.name}  {size_mb:.1f} MB  {days:.1f} days")
        if prune:
            shutil.rmtree(folder)
