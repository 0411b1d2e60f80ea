"""`backtrail dataset`: the array of images that every other stage reads."""

import click

from backtrail.data.prepare import prepare
from backtrail.parameters.base import section
from backtrail.parameters.data import Data
from backtrail.running.stage import stage


@click.command()
def command() -> None:
    """Turn data/raw into data/dataset.safetensors: uint8 images at the suite's resolution, labels, train and test."""
    data = section(Data, "data")
    with stage("dataset", __name__, {"data": data}, ["data/raw"], ["data/dataset.safetensors"]) as record:
        record.notes |= prepare(data)
