"""`backtrail fetch`: the data set's original files, verified by digest."""

from backtrail.data.originals import fetch_data
from backtrail.parameters.data import Data
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Bring the data set's original files into data/raw, each verified by its digest, from the first source that has it."""
    found = fetch_data(stage.section(Data, "data"))
    stage.record.notes["files"] = [
        {"name": kept.name, "sha256": kept.sha256, "verified": kept.verified, "origin": kept.origin} for kept in found
    ]
