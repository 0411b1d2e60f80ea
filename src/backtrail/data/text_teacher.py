"""A published teacher of text to images: its weights, with the first stage and the judges that it was trained beside."""

import shutil
from pathlib import Path

from backtrail.artifacts import atomic_write
from backtrail.data.registry import Source
from backtrail.data.sources import own_source
from backtrail.layout import AUTOENCODER, CAPTION_TOWER, FETCHED_TEACHER, JUDGE, TEACHER

PARTS = (TEACHER, AUTOENCODER, JUDGE, CAPTION_TOWER)  # as the stages of a suite make them; published under the same names in one folder


def text_teacher_source() -> Source:
    """The files of such a folder."""
    return own_source("own-backtrail", [Path(part).name for part in PARTS], "name the folder that `backtrail export --teacher` wrote")


def fetched(part: str, folder: str | Path = FETCHED_TEACHER) -> Path:
    """Where the file of a part lies after it was fetched."""
    return Path(folder) / Path(part).name


def take_over(part: str) -> None:
    """The fetched file becomes the stage's output, byte for byte: who asks where it comes from is led on by its digest."""
    atomic_write(part, lambda place: shutil.copyfile(fetched(part), place))
