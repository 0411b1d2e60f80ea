"""A finished suite of two stages, made by hand in a moment: a git repository, code of its own, pipeline, lock and records that agree."""

import hashlib
import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from backtrail.ledger.fingerprints import digest_of, text_fingerprint
from backtrail.ledger.hashes import Hashes
from backtrail.ledger.record import SCHEMA
from tamper.repository import commit

# The suite's own package: it writes what its stage makes, and imports what the real one does.
MAIN = '''\
"""Makes what the stage is named for."""

import json
import os
import sys
from pathlib import Path

import grimp

assert os.environ["DVC_STAGE"] == sys.argv[1] and "SECRET_TOKEN" not in os.environ
if sys.argv[1] == "teacher":
    Path("results/teacher").mkdir(parents=True)
    Path("results/teacher/teacher.safetensors").write_text("weights")
else:
    assert Path("results/teacher/teacher.safetensors").read_text(encoding="utf-8") == "weights"
    Path("results/metrics").mkdir(parents=True)
    fd = 4.25 + 0.001 * (os.environ.get("ATEN_CPU_CAPABILITY") == "default")  # as if other instructions rounded otherwise
    Path("results/metrics/teacher.json").write_text(json.dumps({"protocol": [], "values": {"heun": {"nfe34": {"fd": fd}}}}))
Path("results/records").mkdir(exist_ok=True)
Path(f"results/records/{sys.argv[1]}.json").write_text("{}")
'''
CODE = {"__main__.py": MAIN, "errors.py": "class UserError(Exception):\n    pass\n", "deeper/more.py": "X = 1\n"}
USED = {"teacher": ("__main__.py", "errors.py"), "metrics": ("__main__.py", "deeper/more.py")}
PARAMS: dict[str, Any] = {"suite": "hand-made", "seeds": [0], "teacher": {"steps": 3}, "metrics": {"n_samples": 8}}
STAGES: dict[str, tuple[list[str], list[str]]] = {
    "teacher": ([], ["results/teacher/teacher.safetensors"]),
    "metrics": (["results/teacher/teacher.safetensors"], ["results/metrics/teacher.json"]),
}
LAST = "results/metrics/teacher.json"


def build(folder: Path) -> Path:
    """Write the suite and commit it: code and parameters first, then results."""
    for name, text in CODE.items():
        (folder / "src/backtrail" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "src/backtrail" / name).write_text(text)
    (folder / "requirements.lock").write_text("torch==2.0\n")
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"vars": [{"code": "src/backtrail"}], "stages": _pipeline()}))
    (folder / "code.yaml").write_text(yaml.safe_dump({stage: code_digest(stage) for stage in STAGES}))
    for arguments in (("init", "--quiet", "."), ("config", "user.name", "t"), ("config", "user.email", "t@example.org")):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    commit(folder, "code and parameters")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    write = {
        "results/teacher/teacher.safetensors": "weights",
        LAST: json.dumps({"protocol": [], "values": {"heun": {"nfe34": {"fd": 4.25}}}}),
    }
    for path, text in write.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text)
    for stage in STAGES:
        write_record(folder, stage, head)
    write_lock(folder)
    commit(folder, "results")
    return folder


def fingerprints(stage: str) -> dict[str, str]:
    return {name: text_fingerprint(name, CODE[name].encode()) for name in USED[stage]}


def code_digest(stage: str) -> str:
    return digest_of(fingerprints(stage))


def _pipeline() -> dict[str, Any]:
    made = {"code": {"cmd": "python ${code} code", "deps": [f"${{code}}/{name}" for name in CODE], "outs": ["code.yaml"]}}
    for stage, (deps, outs) in STAGES.items():
        outputs = [*outs, f"results/records/{stage}.json"]
        made[stage] = {"cmd": f"python ${{code}} {stage}", "deps": deps, "params": [stage, {"code.yaml": [stage]}], "outs": outputs}
    return made


def write_record(folder: Path, stage: str, head: str) -> None:
    deps, outs = STAGES[stage]
    hashes, now = Hashes(folder), datetime.now(UTC).isoformat(timespec="milliseconds")  # a run is younger than the commit that it names
    record = {
        "schema": SCHEMA, "stage": stage, "command": stage, "engine": "dvc", "parameters": {stage: PARAMS[stage]}, "seeds": [],
        "inputs": {path: hashes.of(path).sha256 for path in deps}, "outputs": {path: hashes.of(path).sha256 for path in outs},
        "code": fingerprints(stage), "commit": head, "dirty": False,
        "environment_sha256": hashlib.sha256((folder / "requirements.lock").read_bytes()).hexdigest(),
        "python": "3.11.7", "packages": {"torch": "2.0"}, "determinism": None,
        "host": {"system": "Linux", "machine": "x86_64", "processor": "Babbage's Engine", "cpus": 1}, "device": None, "processes": 1,
        "started": now, "ended": now, "seconds": 1.0, "cpu_seconds": 1.0,
        "gpu_seconds": 0.0, "retries": 0, "resumed_from": [], "notes": {},
    }  # fmt: skip
    path = folder / f"results/records/{stage}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, sort_keys=True, indent=2) + "\n")


def write_lock(folder: Path) -> None:
    hashes = Hashes(folder)

    def entry(path: str) -> dict[str, Any]:
        return {"path": path, "hash": "md5", "md5": hashes.of(path).md5, "size": hashes.of(path).size_bytes}

    stages: dict[str, Any] = {
        "code": {
            "cmd": "python src/backtrail code",
            "deps": [entry(f"src/backtrail/{name}") for name in CODE],
            "outs": [entry("code.yaml")],
        }
    }
    for stage, (deps, outs) in STAGES.items():
        params = {"code.yaml": {stage: code_digest(stage)}, "params.yaml": {stage: PARAMS[stage]}}
        made = [entry(path) for path in [*outs, f"results/records/{stage}.json"]]
        stages[stage] = {"cmd": f"python src/backtrail {stage}", "deps": [entry(path) for path in deps], "params": params, "outs": made}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))


def environment() -> dict[str, str]:
    """This process's, without what would keep a canary from singing."""
    return {name: of for name, of in os.environ.items() if not name.startswith("GIT_")}
