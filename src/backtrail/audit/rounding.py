"""What rounding may do, measured by the machine that audits: it computes once more as a processor with fewer instructions would.

A record that names this machine forbids any difference; none can allow one, since it may lie about where it was made.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import torch

from backtrail.audit.alike import values_apart
from backtrail.ledger.fingerprints import PACKAGE_FOLDER
from backtrail.ledger.ledger import Ledger, Stage
from backtrail.ledger.record import SECRET_NAME, processor

# What torch, oneDNN and MKL heed: the instructions of the least of x86-64 processors, and no GPU.
OTHER_INSTRUCTIONS = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "CUDA_VISIBLE_DEVICES": "",
}
ROUNDINGS = 3.0  # how many times what rounding does here it may do elsewhere
LEAST, TOLERANCE = 1e-4, 0.05  # and never more than the second share, nor less than the first where it does anything; see `alike.apart`
MEASURE = "import sys; from backtrail.audit.recompute import print_measured; print_measured(*sys.argv[1:])"


def same_machine(ledger: Ledger, stage: Stage) -> bool:
    """Whether torch and the processor here are those that the stage's record names, and neither is a GPU: then each byte must agree."""
    record = ledger.records[stage.name] or {}
    was = record.get("packages", {}).get("torch"), record.get("host", {}).get("processor"), record.get("device")
    return not torch.cuda.is_available() and was == (metadata.version("torch"), processor(), None)


def is_near(distances: Sequence[float], bounds: Sequence[float]) -> bool:
    """Whether differences may be of rounding, each by how far it takes that value here (relative); none may where it does nothing."""
    pairs = zip(distances, bounds, strict=True) if len(distances) == len(bounds) else [(math.inf, 0.0)]
    return max(bounds, default=0.0) > 0 and all(far <= min(max(ROUNDINGS * bound, LEAST), TOLERANCE) for far, bound in pairs)


def metrics_bounds(ledger: Ledger, stage: Stage, values: Any) -> list[float] | None:
    """How far each value of a metric file moves when this machine measures the same samples by other instructions; None if it could not.

    By this package, in a process of its own: nothing of the suite's is executed, and nothing that lies in its folder is imported.
    """
    kept = {name: of for name, of in os.environ.items() if not name.startswith("PYTHON") and not SECRET_NAME.search(name)}
    environment = kept | OTHER_INSTRUCTIONS | {"PYTHONPATH": str(PACKAGE_FOLDER.resolve().parent)}
    command = [sys.executable, "-s", "-P", "-c", MEASURE, str(ledger.folder.resolve()), stage.name]
    with tempfile.TemporaryDirectory(prefix="backtrail-") as empty:
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
    return values_apart(values, json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 and done.stdout else None
