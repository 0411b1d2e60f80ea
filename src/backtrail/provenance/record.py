"""The record that a stage leaves: how, where, when and with which code it ran. Records are never inputs of stages.

It holds no user name, host name, environment variable or absolute path.
"""

import hashlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from backtrail.artifacts import file_digest, save_json
from backtrail.provenance.closure import PACKAGE_FOLDER, code_digests

SCHEMA = 1
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "seaborn",
    "safetensors",
    "pydantic",
    "clean-fid",
    "dvc",
    "snakemake",
)


@dataclass
class Record:
    """What a stage adds while it runs."""

    notes: dict[str, Any] = field(default_factory=dict)


def recipe_key(stage: str, parameters: Mapping[str, Any], inputs: Mapping[str, str], code: Mapping[str, str]) -> str:
    """The name of a stage's scratch folder: a digest of everything that decides its result, and of nothing else.

    Host, time, engine, scheduler and number of devices are left out, so that a run moves between machines.
    """
    recipe = json.dumps([stage, dict(parameters), dict(inputs), dict(code)], sort_keys=True)
    return hashlib.sha256(recipe.encode()).hexdigest()[:24]


def digests(paths: list[str]) -> dict[str, str]:
    """sha256 by path; a folder's entry is a digest over its files' paths and digests."""
    return {path: _folder_digest(Path(path)) if Path(path).is_dir() else file_digest(path) for path in paths if Path(path).exists()}


@contextmanager
def recorded(
    stage: str, module: str, parameters: Mapping[str, Any], inputs: list[str], outputs: list[str], path: str | Path | None = None
) -> Iterator[Record]:
    """Write `path` (by default results/records/STAGE.json) when the body ends without an error.

    stage is DVC's name for it, module the command's module (whose import closure is the code that ran), inputs and outputs its files.
    """
    record, code, started, before = Record(), code_digests(module), datetime.now(UTC), digests(inputs)
    seconds, cpu = time.perf_counter(), time.process_time()
    yield record
    save_json(
        path or Path("results/records") / f"{stage}.json",
        {
            "schema": SCHEMA,
            "stage": stage,
            "module": module,
            "parameters": dict(parameters),
            "inputs": before,
            "outputs": digests(outputs),
            "code": code,
            "commit": _git("rev-parse", "HEAD"),
            "dirty": (bool(status) if (status := _git("status", "--porcelain", "--", str(PACKAGE_FOLDER))) is not None else None),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
            "host": {"system": platform.system(), "machine": platform.machine(), "processor": _processor()},
            "device": _device(),
            "started": started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - seconds, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "notes": record.notes,
        },
    )


def _folder_digest(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    text = "".join(f"{p.relative_to(folder)} {file_digest(p)}\n" for p in files)
    return hashlib.sha256(text.encode()).hexdigest()


def _git(*arguments: str) -> str | None:
    """What git says about the folder that the code lies in; None where there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", str(PACKAGE_FOLDER), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _device() -> dict[str, Any] | None:
    """The GPU in use. Only asked of a torch that the stage has loaded: a figure need not load it to say that it used none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return {"name": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
