"""What a forger does to a suite, from a careless edit to a rewritten ledger."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from backtrail.artifacts import YAML_LOADER
from backtrail.errors import UserError
from backtrail.layout import GATHERED
from backtrail.ledger.gathered import gather
from backtrail.ledger.hashes import Hashes


def flip(path: Path, at: int = -40) -> None:
    """One bit of one byte; size and time stamps stay."""
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def replace(path: Path, old: str, new: str) -> None:
    """The first occurrence of a text that must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path} does not hold {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def edit_lock(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the stages of dvc.lock."""
    lock = yaml.load((folder / "dvc.lock").read_text(encoding="utf-8"), YAML_LOADER)
    change(lock["stages"])
    (folder / "dvc.lock").write_text(
        yaml.dump(lock, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False), encoding="utf-8"
    )


def edit_record(folder: Path, stage: str, change: Callable[[dict[str, Any]], None], in_lock: bool = True) -> None:
    """Change a record, and (if asked) its digest in dvc.lock, so that only its content can give it away."""
    path = f"results/records/{stage}.json"
    record = json.loads((folder / path).read_text(encoding="utf-8"))
    change(record)
    (folder / path).write_text(json.dumps(record, sort_keys=True, indent=2) + "\n", encoding="utf-8")
    if in_lock:
        _gather(folder)

        def fit(stages: dict[str, Any]) -> None:
            _renew(folder, stages[stage]["outs"], {path})
            for entries in (stages["ledger"]["deps"], stages["ledger"]["outs"]) if "ledger" in stages else ():
                _renew(folder, entries)

        edit_lock(folder, fit)


def _renew(folder: Path, entries: list[dict[str, Any]], paths: set[str] | None = None) -> None:
    hashes = Hashes(folder)
    for entry in entries:
        digest = hashes.of(entry["path"])
        if digest is not None and (paths is None or entry["path"] in paths):
            entry |= {"md5": digest.md5, "size": digest.size_bytes}


def _gather(folder: Path) -> None:
    """The file that git keeps of the records made anew, where the suite has one; a record of another stage is not gathered."""
    if (folder / GATHERED).exists():
        with contextlib.suppress(UserError):
            gather(folder)


def rewrite_ledger(folder: Path) -> None:
    """Every digest in every record and in dvc.lock made to fit the bytes that lie here: a forger who leaves no contradiction."""
    hashes = Hashes(folder)
    for path in (folder / "results/records").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        for kind in ("inputs", "outputs"):
            record[kind] = {name: digest.sha256 if (digest := hashes.of(name)) else said for name, said in record[kind].items()}
        path.write_text(json.dumps(record, sort_keys=True, indent=2) + "\n", encoding="utf-8")
    _gather(folder)
    rewrite_lock_only(folder)


def rewrite_lock_only(folder: Path) -> None:
    """Every digest in dvc.lock made to fit, and the records left as they are."""

    def change(stages: dict[str, Any]) -> None:
        for stage in stages.values():
            _renew(folder, stage.get("deps", []))
            _renew(folder, stage["outs"])

    edit_lock(folder, change)
