"""`backtrail text-dataset`: the images and captions that every other stage reads."""

from backtrail import layout
from backtrail.data.fashion_text import CROPPED, fashion_text
from backtrail.data.fetched_folder import fetched_files
from backtrail.data.pack import pack
from backtrail.parameters.text import TextWorld
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Turn data/raw into data/dataset.safetensors: uint8 images of 32x32 in colour; labels are the numbers of their captions."""
    images = fashion_text(layout.RAW, stage.value(TextWorld, "text.seed"))
    sources = [{"file": name, "sha256": digest} for name, digest in fetched_files(layout.RAW).items()]
    stage.record.notes |= pack(layout.DATASET, images, "fashion-text", CROPPED, sources)
