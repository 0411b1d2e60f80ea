"""The frame of `stage.py` for stages that compute with torch: device, precision, processes, determinism, and the resume state."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import torch

from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.layout import record
from backtrail.ledger.hashes import hash_file
from backtrail.nets.blocks import checkpoint_blocks
from backtrail.parameters.runtime import Runtime
from backtrail.pipeline import Declared
from backtrail.running.determinism import bfloat16_is_slow, deterministic
from backtrail.running.memory import keep_freed_memory
from backtrail.running.processes import count_processes, join, launch
from backtrail.running.stage import Stage, as_command, command_name, declaration, recorded_stage
from backtrail.training.data_parallel import ALONE, Group
from backtrail.training.scratch import Scratch

logger = logging.getLogger(__name__)
AUTOCAST = {"float32": None, "tf32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class TorchStage(Stage):
    """What a stage's function is handed beside: where it keeps its resume state, where it computes, and with whom."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    runtime: Runtime = field(default_factory=Runtime)
    group: Group = ALONE
    scratch: Scratch | None = None

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


def torch_stage(function: Callable[[TorchStage], None]) -> click.Command:
    """A stage that computes with torch in one process, as a command."""
    return _torch_command(function, several=False)


def distributed_stage(function: Callable[[TorchStage], None]) -> click.Command:
    """A stage that divides its batches among processes, one for each GPU (or BACKTRAIL_PROCESSES of them), which are started here."""
    return _torch_command(function, several=True)


def _torch_command(function: Callable[[TorchStage], None], several: bool) -> click.Command:
    def run(name: str | None) -> None:
        with running_torch_stage(declaration(command_name(function), name), several) as handed:
            function(handed)

    return as_command(function, run)


@contextmanager
def running_torch_stage(found: Declared, several: bool) -> Iterator[TorchStage]:
    """`recorded_stage` with torch made deterministic; after it the last resume state stays until DVC has its outputs."""
    runtime = Stage(found).section(Runtime, "runtime")
    device = choose_device(runtime)
    if several and (n := count_processes(device)) > 1:
        launch(n, found)
    configure(runtime, device)
    with join(found.name, device, several, runtime.micro_batch) as group:
        folder = Stage(found).scratch_folder
        if group.rank:
            yield TorchStage(found, device=device, runtime=runtime, group=group, scratch=Scratch(folder, writes=False))
            return
        with recorded_stage(found) as plain:
            handed = TorchStage(found, plain.record, device, runtime, group, scratch := Scratch(folder))
            yield handed
            if scratch.resumed_from is not None:
                plain.record.notes["resumed_from_step"] = scratch.resumed_from
            if group.processes > 1:
                plain.record.notes["processes"] = group.processes
        scratch.clear(hash_file(Path(record(found.name))).md5 if "DVC_STAGE" in os.environ else "")


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
    if runtime.compile:
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    deterministic(warn_only=device.type == "cuda")
    if runtime.precision == "bfloat16" and device.type == "cpu" and (slow := bfloat16_is_slow()):
        logger.warning(slow)
    if device.type == "cuda":
        torch.cuda.set_device(device)
