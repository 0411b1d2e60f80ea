"""The record that a stage leaves: how, where, when and with which code it ran. Records are never inputs of stages.

It holds no user name, host name, token or absolute path: see `publishable`. The schema is `record.schema.json`, read by `ledger`.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from backtrail import layout
from backtrail.artifacts import TEMPORARY, file_digest, save_json
from backtrail.errors import UserError
from backtrail.ledger.fingerprints import PACKAGE_FOLDER, code_fingerprints

SCHEMA = 3
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
WITHHELD = "(withheld)"
LOCAL_PATH = "(a local path)"
SECRET_NAME = re.compile(r"token|secret|passw|credential|api_?key|private", re.IGNORECASE)
ADDRESS = re.compile(r"^([a-z][a-z0-9+.-]*://)(?:[^/@]*@)?([^?#]*)", re.IGNORECASE)


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
    stage: str, command: str, parameters: Mapping[str, Any], inputs: Mapping[str, str], outputs: list[str], seeds: Sequence[int] = ()
) -> Iterator[Record]:
    """Write results/records/STAGE.json when the body ends without an error.

    stage is DVC's name for it, command what it runs (whose import closure is the code that ran), inputs its files' digests
    before it ran, outputs its files.
    """
    record, code, started, retries = Record(), code_fingerprints(command), datetime.now(UTC), _retries()
    seconds, cpu = time.perf_counter(), time.process_time()
    yield record
    seconds, notes = time.perf_counter() - seconds, dict(record.notes)
    device, processes, resumed = _device(), int(os.environ.get("WORLD_SIZE", "1")), notes.pop("resumed_from_step", None)
    content = {
        "schema": SCHEMA,
        "stage": stage,
        "command": command,
        "engine": _engine(),
        "parameters": dict(parameters),
        "seeds": list(seeds),
        "inputs": dict(inputs),
        "outputs": digests(outputs),
        "code": code,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": (bool(status) if (status := _git("status", "--porcelain", "--", str(PACKAGE_FOLDER))) is not None else None),
        "environment_sha256": _lock_digest(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "determinism": _determinism(),
        "host": {
            "system": platform.system(),
            "machine": platform.machine(),
            "processor": processor(),
            "cpus": os.cpu_count(),
        },
        "device": device,
        "processes": processes,
        "started": started.isoformat(timespec="milliseconds"),
        "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "gpu_seconds": round(seconds * processes, 3) if device else 0.0,
        "retries": retries,
        "resumed_from": [] if resumed is None else [resumed],
        "notes": notes,
    }
    save_json(layout.record(stage), publishable(content))


def publishable(value: Any) -> Any:
    """`value` without what must not be published.

    Values of environment variables that are named like a secret, values under keys that are, what stands before an `@` or after a `?`
    in an address, and absolute paths and the home and suite's folders inside longer text, which hold user names.
    """
    secrets = [re.escape(text) for name, text in os.environ.items() if SECRET_NAME.search(name) and len(text) >= 6]
    folders = "|".join(re.escape(folder) for folder in (str(Path.cwd()), str(Path.home())) if folder != "/")
    return _published(value, [(re.compile("|".join(secrets) or "(?!)"), WITHHELD), (re.compile(rf"(?:{folders})[^\s\"']*"), LOCAL_PATH)])


def _published(value: Any, secrets: list[tuple[re.Pattern[str], str]]) -> Any:
    if isinstance(value, Mapping):
        return {
            _published(key, secrets): WITHHELD if SECRET_NAME.search(str(key)) and of is not None else _published(of, secrets)
            for key, of in value.items()
        }
    if isinstance(value, list | tuple):
        return [_published(of, secrets) for of in value]
    if not isinstance(value, str):
        return value
    for secret, stand_in in secrets:
        value = secret.sub(stand_in, value)
    if found := ADDRESS.match(value):
        return LOCAL_PATH if found[1].lower() == "file://" else found[1] + found[2]
    return LOCAL_PATH if value.startswith(("/", "~", "\\")) or re.match(r"^[A-Za-z]:[\\/]", value) else value


def folder_digest(files: Mapping[str, str]) -> str:
    """sha256 over a folder's files: their paths in it and their sha256."""
    return hashlib.sha256("".join(f"{path} {digest}\n" for path, digest in sorted(files.items())).encode()).hexdigest()


def _folder_digest(folder: Path) -> str:
    # DVC writes a .gitignore beside each output, when it happens to, and a kill leaves half a file: neither is part of what a stage made.
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".gitignore" and not TEMPORARY.fullmatch(p.name))
    return folder_digest({p.relative_to(folder).as_posix(): file_digest(p) for p in files})


def _git(*arguments: str) -> str | None:
    """What git says about the folder that the code lies in; None where there is no git or no repository."""
    return _output("git", "-C", str(PACKAGE_FOLDER), *arguments)


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _device() -> dict[str, Any] | None:
    """The GPU that the stage computed on; None for a stage that ran on the CPU, also of a machine that has one.

    Only asked of a torch that the stage has loaded: a figure need not load it to say that it used none.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return {
        "name": torch.cuda.get_device_name(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _determinism() -> dict[str, Any] | None:
    """What torch was told about determinism and precision; None where the stage has not loaded it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "threads": torch.get_num_threads(),
    }


def _retries() -> int:
    """How often an engine had started this stage before: Snakemake counts its attempts from 1 and hands the count on."""
    attempt = os.environ.get("BACKTRAIL_ATTEMPT", "1")
    if not attempt.isascii() or not attempt.isdigit() or int(attempt) < 1:
        raise UserError(f"BACKTRAIL_ATTEMPT is {attempt!r} in the environment; expected a count from 1, as Snakemake's `attempt`; unset it")
    return int(attempt) - 1


def _lock_digest() -> str | None:
    """sha256 of the environment's lock file, where the code lies in its repository."""
    lock = PACKAGE_FOLDER.parents[1] / "requirements.lock"
    return file_digest(lock) if lock.is_file() else None


def _engine() -> str:
    """What started the stage: `dvc` (which names the stage in the environment), `snakemake` (by way of DVC), or a shell."""
    if "DVC_STAGE" not in os.environ:
        return "shell"
    return "snakemake" if any(b"snakemake" in line for line in _ancestors()) else "dvc"


def _ancestors() -> Iterator[bytes]:
    """The command lines of the processes above this one; none where the system does not tell."""
    pid = os.getppid()
    while pid > 1:
        try:
            yield Path(f"/proc/{pid}/cmdline").read_bytes()
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return
