"""`backtrail dataset`: the array of images that every other stage reads."""

from backtrail.data.prepare import prepare
from backtrail.parameters.data import Data
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Turn data/raw into data/dataset.safetensors: uint8 images at the suite's resolution, labels, train and test."""
    stage.record.notes |= prepare(stage.section(Data, "data"))
