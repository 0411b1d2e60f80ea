"""The same for stages that compute with torch: threads, determinism, and the resume state."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from backtrail.cli import stage as plain_stage
from backtrail.parameters.base import Section, section
from backtrail.parameters.runtime import Runtime
from backtrail.provenance.record import Record
from backtrail.training.scratch import Scratch


@dataclass(frozen=True)
class TorchStage:
    """What a stage is handed: its record to add to, and where it keeps its resume state."""

    record: Record
    scratch: Scratch


@contextmanager
def torch_stage(
    name: str, module: str, parameters: dict[str, Section | Any], inputs: list[str], outputs: list[str]
) -> Iterator[TorchStage]:
    """`cli.stage.stage` with torch made deterministic; the resume state is dropped when the stage has ended well."""
    plain_stage.check_suite()
    runtime = section(Runtime, "runtime")
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True)
    parameters = {**parameters, "runtime": runtime}
    scratch = Scratch(plain_stage.scratch_folder(name, module, parameters, inputs))
    with plain_stage.stage(name, module, parameters, inputs, outputs) as record:
        yield TorchStage(record, scratch)
        if scratch.resumed_from is not None:
            record.notes["resumed_from_step"] = scratch.resumed_from
    scratch.clear()
