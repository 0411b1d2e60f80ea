"""A folder of fetched files beside the data's own, and the list that says what they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backtrail.artifacts import load_json, save_json
from backtrail.data.fetch import fetch
from backtrail.data.registry import Source
from backtrail.errors import UserError

MANIFEST = "manifest.json"


def fetch_outside(
    folder: str | Path, sources: list[Source], local: str | None = None, pins: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Bring the files of `sources` into `folder`, verified, and list them in its manifest; returns {"files": [...]}, with their origins.

    A suite without sources has a manifest without files: the folder is an output of its stage in every suite.
    """
    listed, names = [], {file.name for source in sources for file in source.files}
    if unknown := set(pins or {}) - names:
        raise UserError(
            f"sha256 names {', '.join(sorted(unknown))}, which is not fetched here; files: {', '.join(sorted(names)) or 'none'}"
        )
    for source in sources:
        own = {file.name for file in source.files}
        for kept in fetch(source, folder, local, {name: digest for name, digest in (pins or {}).items() if name in own}):
            about = {"name": kept.name, "sha256": kept.sha256, "size_bytes": kept.size_bytes, "verified": kept.verified}
            listed.append({"source": source.name, **about, "origin": kept.origin})
    # Where a file came from does not stand in the manifest: the same bytes from another address are the same output.
    save_json(Path(folder) / MANIFEST, {"files": [{k: v for k, v in entry.items() if k != "origin"} for entry in listed]})
    return {"files": listed}


def fetched_files(folder: str | Path) -> dict[str, str]:
    """sha256 by file name, from a folder's manifest. Raises UserError if it is absent."""
    return {entry["name"]: entry["sha256"] for entry in load_json(Path(folder) / MANIFEST)["files"]}
