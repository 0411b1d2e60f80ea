"""The same for stages that compute with torch: device, precision, processes, determinism, and the resume state."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.ledger.record import Record
from backtrail.nets.blocks import checkpoint_blocks
from backtrail.parameters.base import Section, section
from backtrail.parameters.runtime import Runtime
from backtrail.running import stage as plain_stage
from backtrail.running.memory import keep_freed_memory
from backtrail.running.processes import count_processes, join, launch
from backtrail.training.group import ALONE, Group
from backtrail.training.scratch import Scratch

AUTOCAST = {"float32": None, "tf32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TorchStage:
    """What a stage is handed: its record to add to, where it keeps its resume state, where it computes, and with whom."""

    record: Record
    scratch: Scratch
    device: torch.device
    runtime: Runtime
    group: Group = field(default=ALONE)

    @property
    def writes(self) -> bool:
        """Whether this process writes the stage's outputs: of several with the same result the first does."""
        return self.group.rank == 0

    def place(self, denoiser: NetDenoiser) -> NetDenoiser:
        """The denoiser on the stage's device, computing as the suite's `runtime` says; copies of it do the same."""
        denoiser.autocast, denoiser.compiled = AUTOCAST[self.runtime.precision], self.runtime.compile
        if self.runtime.checkpointing:
            checkpoint_blocks(denoiser.net)
        return denoiser.to(self.device, memory_format=torch.channels_last if self.runtime.channels_last else torch.preserve_format)


@contextmanager
def torch_stage(
    name: str, module: str, parameters: dict[str, Section | Any], inputs: list[str], outputs: list[str], several: bool = False
) -> Iterator[TorchStage]:
    """`cli.stage.stage` with torch made deterministic; the resume state is dropped when the stage has ended well.

    several: the stage divides its batches among processes, one for each GPU (or BACKTRAIL_PROCESSES of them), which are started here.
    """
    runtime = section(Runtime, "runtime")
    device = choose_device(runtime)
    if several and (n := count_processes(device)) > 1:
        launch(n)
    configure(runtime, device)
    parameters = {**parameters, "runtime": runtime}
    with join(name, device, several, runtime.micro_batch) as group:
        folder = plain_stage.scratch_folder(name, module, parameters, inputs)
        if group.rank:
            yield TorchStage(Record(), Scratch(folder, writes=False), device, runtime, group)
            return
        with plain_stage.stage(name, module, parameters, inputs, outputs) as record:
            scratch = Scratch(folder)
            yield TorchStage(record, scratch, device, runtime, group)
            if scratch.resumed_from is not None:
                record.notes["resumed_from_step"] = scratch.resumed_from
            if group.processes > 1:
                record.notes["processes"] = group.processes
        scratch.clear()


def choose_device(runtime: Runtime) -> torch.device:
    """The device that `runtime` names. Raises UserError if it asks for a GPU and torch finds none."""
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device = cuda, and torch finds no GPU here: run the stage on a machine with one, or set it to auto or cpu")
    if runtime.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def configure(runtime: Runtime, device: torch.device) -> None:
    """Threads, memory, precision and determinism for this process."""
    torch.set_num_threads(runtime.threads)
    keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for before it gives the same bytes twice
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = runtime.precision == "tf32"
    torch.backends.cudnn.benchmark = False
    # Some CUDA kernels have no deterministic form: there the stage goes on with a warning, and results agree within float error.
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    torch.utils.deterministic.fill_uninitialized_memory = False  # by default each new tensor is filled with NaN, to find what reads it
    if device.type == "cuda":
        torch.cuda.set_device(device)
