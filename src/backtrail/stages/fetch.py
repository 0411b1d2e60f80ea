"""`backtrail fetch`: the data set's original files, verified by digest."""

import click

from backtrail.data.originals import fetch_data
from backtrail.parameters.base import section
from backtrail.parameters.data import Data
from backtrail.running.stage import stage


@click.command()
def command() -> None:
    """Bring the data set's original files into data/raw, each verified by its digest, from the first source that has it."""
    data = section(Data, "data")
    with stage("fetch", __name__, {"data": data}, [], ["data/raw"]) as record:
        record.notes["files"] = [
            {"name": kept.name, "sha256": kept.sha256, "verified": kept.verified, "origin": kept.origin} for kept in fetch_data(data)
        ]
