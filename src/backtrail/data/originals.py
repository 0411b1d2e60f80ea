"""The stage `fetch`: the data set's originals in `data/raw`, verified; a folder of images becomes one archive."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from backtrail.artifacts import atomic_write
from backtrail.data.archives import LABEL_FILE
from backtrail.data.fetch import fetch
from backtrail.data.images import ENDINGS
from backtrail.data.keep import Kept, scratch_of
from backtrail.data.sources import OWN, source_of
from backtrail.errors import UserError
from backtrail.parameters.data import Data

_MORNING = (1980, 1, 1, 0, 0, 0)  # zip's first date: the same folder gives the same archive


def fetch_data(data: Data, raw: str | Path = "data/raw") -> list[Kept]:
    """Bring the originals of the data set into `raw`, verified. Returns what each file is and where it came from.

    An image folder becomes one archive, because thousands of small files are slow to keep track of.
    """
    raw = Path(raw)
    source = source_of(data)
    if data.name != "image-folder":
        return fetch(source, raw, data.local, data.sha256)
    if data.local is None or not Path(data.local).expanduser().is_dir():
        raise UserError(f"data.local = {data.local!r}: expected the folder of your images")
    packed = scratch_of(raw) / OWN
    pack_folder(Path(data.local).expanduser(), packed)
    try:
        return fetch(source, raw, packed, data.sha256)
    finally:
        packed.unlink(missing_ok=True)


def pack_folder(folder: Path, path: Path) -> None:
    """Write the images below `folder` (and its `dataset.json`) as a zip: sorted, stored, without dates, so equal content is equal bytes."""
    names = sorted(name for name in _files(folder) if name.lower().encode().endswith(ENDINGS) or name == LABEL_FILE)
    if not names:
        raise UserError(f"{folder} holds no PNG or JPEG image")

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo(name, _MORNING), (folder / name).read_bytes())

    atomic_write(path, write)


def _files(folder: Path) -> Iterator[str]:
    """Paths of the files below `folder`. A link to a folder is refused: following it may not end, leaving it out would be silent."""
    for place, folders, files in os.walk(folder):
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise UserError(f"{Path(place) / name} is a link to a folder: put the folder itself there")
        for name in files:
            yield (Path(place) / name).relative_to(folder).as_posix()
