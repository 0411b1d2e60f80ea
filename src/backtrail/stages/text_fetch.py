"""`backtrail text-fetch`: the originals of fashion-text, verified by digest."""

from backtrail import layout
from backtrail.data.fetched_folder import fetch_outside
from backtrail.data.sources import SOURCES
from backtrail.parameters.text import TextWorld
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Bring Fashion-MNIST into data/raw and the text encoder into data/text-encoder, each file verified by its digest."""
    local = stage.value(TextWorld, "text.local")
    fetched = [fetch_outside(folder, [SOURCES[name]], local) for folder, name in ((layout.RAW, IMAGES), (layout.TEXT_ENCODER, ENCODER))]
    stage.record.notes["files"] = [file for of in fetched for file in of["files"]]


IMAGES, ENCODER = "fashion-mnist", "minilm-l6-v2"
