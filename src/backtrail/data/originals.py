"""The stage `fetch`: the data set's originals in `data/raw`, verified; a folder of images becomes one archive."""

import zipfile
from pathlib import Path

from backtrail.artifacts import atomic_write
from backtrail.data.fetch import fetch
from backtrail.data.folders import open_folder
from backtrail.data.layout import layout_of, sift
from backtrail.data.sources import OWN, source_of
from backtrail.data.understood import own_images
from backtrail.data.verification import Kept, scratch_of
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
    folder = own_images(data).path
    packed = scratch_of(raw) / OWN
    pack_folder(folder, packed)
    try:
        return fetch(source, raw, packed, data.sha256)
    finally:
        packed.unlink(missing_ok=True)


def pack_folder(folder: Path, path: Path) -> None:
    """Write the images below `folder` (and its label file) as a zip: sorted, stored, without dates, so equal content is equal bytes."""
    members = open_folder(folder)
    layout = layout_of(members)
    layout.warn(folder)
    rows = sorted(sift(members)[0] + ([] if layout.label_row is None else [layout.label_row]))

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for row in rows:
                archive.writestr(zipfile.ZipInfo(members.names[row].decode(), _MORNING), members.read(row))

    atomic_write(path, write)
