"""What every stage's command does around its work: parameters checked as a whole, threads set, a record left, a line of result."""

import importlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backtrail.ledger.closure import code_digests
from backtrail.ledger.record import Record, digests, recipe_key, recorded
from backtrail.parameters.base import Section

logger = logging.getLogger(__name__)
SCRATCH = Path(".scratch")


@contextmanager
def stage(name: str, module: str, parameters: dict[str, Section | Any], inputs: list[str], outputs: list[str]) -> Iterator[Record]:
    """Check all of params.yaml, run the body, leave a record. `name` is DVC's name of the stage, `module` is __name__ of the command."""
    check_suite()
    started = time.perf_counter()
    with recorded(name, module, plain(parameters), inputs, outputs) as record:
        yield record
    logger.info("%s: done in %.1f s", name, time.perf_counter() - started)


def check_suite() -> None:
    """Refuse a params.yaml with an error anywhere, before any work starts.

    Loaded by name: checking another section decides whether this stage runs, never what it computes, so it is no part of its code.
    """
    importlib.import_module("backtrail.parameters.suite").read_suite()


def plain(parameters: dict[str, Section | Any]) -> dict[str, Any]:
    """Parameters as JSON-able values, defaults filled in."""
    return {k: v.model_dump(mode="json") if isinstance(v, Section) else v for k, v in parameters.items()}


def scratch_folder(name: str, module: str, parameters: dict[str, Section | Any], inputs: list[str]) -> Path:
    """Where the stage keeps its resume state: .scratch/STAGE-KEY, the key being a digest of parameters, inputs and code."""
    return SCRATCH / f"{name}-{recipe_key(name, plain(parameters), digests(inputs), code_digests(module))}"
