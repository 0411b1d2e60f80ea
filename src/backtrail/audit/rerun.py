"""The stage level: whole stages once more from their inputs, by the suite's own code. It alone binds a number to the method, and it alone
executes what the suite brings: somebody else's suite belongs into a container.
"""

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backtrail.audit.alike import apart
from backtrail.audit.audit import Rerun
from backtrail.audit.findings import ABSENT, BROKEN, CLOSE, Finding
from backtrail.audit.recompute import chosen, lay_out
from backtrail.audit.rounding import OTHER_INSTRUCTIONS, is_near, same_machine
from backtrail.layout import LOCK_FILE, PARAMS_FILE, PIPELINE_FILE, RECORDS
from backtrail.ledger.hashes import Hashes
from backtrail.ledger.ledger import Ledger, Stage
from backtrail.ledger.record import SECRET_NAME

WARNING = "the stage level executes the suite's own code, as you, here and now: audit a suite of others in a container"
WITHHELD_FROM_STAGES = re.compile(r"^(PYTHON|GIT_|DVC_|SSH_|AWS_|LD_PRELOAD|BACKTRAIL_(SLICE_S|SAVE_EVERY_S|ATTEMPT))")

# What `data/fetch.py` says where there is no network: no byte is wrong then.
NOT_BROUGHT = re.compile(r"could not get .*; tried: ")


def stages(ledger: Ledger, bad: set[str], patterns: Sequence[str]) -> Rerun:
    """The stages that fit a pattern and whose inputs are sound, once more."""
    todo, notes = chosen(ledger, bad, patterns, "")
    found, right, said, n_again = again(ledger, [stage for stage in todo if not stage.keeps_books])
    return found, right, [*notes, *said], n_again


def again(ledger: Ledger, todo: Sequence[Stage]) -> Rerun:
    """Stages once more, each in a folder that holds nothing but its inputs; their outputs against the ledger."""
    found: list[Finding] = []
    right: set[str] = set()
    notes: list[str] = []
    n_again = 0
    for stage in todo:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="backtrail-") as name:
            folder = Path(name)
            if failure := run_again(ledger, stage, folder):
                absent = NOT_BROUGHT.search(failure) is not None
                message = f"{stage.name} {'cannot be run again here' if absent else 'fails when run again'}: {failure}"
                verdict, link = ABSENT if absent else BROKEN, f"{stage.name} -> again"
                found.append(Finding(verdict, f"stage:{stage.name}", link, message))
                continue
            unlike = list(_unlike(ledger, stage, folder / "suite"))
        n_again += 1
        found += unlike
        same = set(stage.products) - {finding.subject for finding in unlike}
        right |= same
        close = sum(finding.verdict == CLOSE for finding in unlike)
        took = f"in {time.perf_counter() - started:.1f} s"
        near = f", {close} within tolerance" if close else ""
        notes.append(f"{stage.name} run again {took}: {len(same)} of {len(stage.products)} outputs the same{near}")
    return found, right, notes, n_again


def run_again(ledger: Ledger, stage: Stage, folder: Path, settings: Mapping[str, str] | None = None) -> str:
    """Run a stage's command in `folder`/suite, where links lead to its inputs. Returns what went wrong, or nothing.

    settings: more variables of the environment.

    The code is a copy that has nothing beside it which Python could import: a `grimp.py` in the suite's folder, or beside the package, is
    none of the package's. Secrets in the environment are not handed on.
    """
    if not stage.command or stage.folder != ledger.code:
        return f"its command line is {stage.cmd!r}; expected `python {ledger.code} COMMAND`"
    if not (ledger.folder / ledger.code).is_dir():
        return f"its code, {ledger.code}, is not here"
    package, place = folder / "code/src/backtrail", folder / "suite"
    shutil.copytree(ledger.folder / ledger.code, package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "*.so"))
    place.mkdir()
    lay_out(ledger, _needed(ledger, stage), place)
    kept = {name: of for name, of in os.environ.items() if not WITHHELD_FROM_STAGES.match(name) and not SECRET_NAME.search(name)}
    environment = kept | {"DVC_STAGE": stage.name, "PYTHONDONTWRITEBYTECODE": "1"} | dict(settings or {})
    command = [sys.executable, "-s", str(package), *shlex.split(stage.command)]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


def _needed(ledger: Ledger, stage: Stage) -> set[str]:
    """What a stage's folder has to hold: inputs, the records of all that they rest on (the page tells of them), parameters, pipeline."""
    inputs = ledger.inputs(stage)
    records = {path for source in inputs for path in ledger.closure(source) if path.startswith(f"{RECORDS}/")}
    return {PARAMS_FILE, PIPELINE_FILE, *inputs, *records}


def _unlike(ledger: Ledger, stage: Stage, folder: Path) -> Iterator[Finding]:
    """What is to be said of each output, made anew in `folder`, that is not the same to the byte.

    Whether a difference may be one of rounding is measured by this machine, which makes the stage's outputs once more as a processor with
    fewer instructions would. What the record says of the machine that it ran on can forbid any difference, and allows none.
    """
    digests = {path: Hashes(folder).of(path) for path in stage.products}
    unlike = {path: digest for path, digest in digests.items() if digest is None or digest.md5 != stage.outs[path].md5}
    allowed = {} if not unlike or same_machine(ledger, stage) else _by_rounding(ledger, stage, folder)
    for path, digest in unlike.items():
        if path in allowed and not (ledger.folder / path).exists():
            continue  # another processor made other bytes, and those that it would be held against are not here, as the hash level has said
        link, what = f"{stage.name} -> {path}", "other bytes" if digest else "nothing"
        message = f"{path}: {stage.name} run again made {what}; {LOCK_FILE} has md5 {stage.outs[path].md5}"
        distance, bound = apart(ledger.folder / path, folder / path) if path in allowed else math.inf, allowed.get(path, 0.0)
        if path in allowed:
            message += f"; {distance:.2g} apart, and this machine's own rounding takes it {bound:.2g} apart"
        near = distance > 0 and is_near([distance], [bound])
        yield Finding(CLOSE if near else BROKEN, path, link, f"{message}: {CLOSE}" if near else message)


def _by_rounding(ledger: Ledger, stage: Stage, folder: Path) -> dict[str, float]:
    """How far each output moves when this machine computes it by other instructions; nothing if it cannot."""
    with tempfile.TemporaryDirectory(prefix="backtrail-") as name:
        if run_again(ledger, stage, Path(name), OTHER_INSTRUCTIONS):
            return {}
        return {path: apart(folder / path, Path(name) / "suite" / path) for path in stage.products if (folder / path).exists()}
