"""Several processes for one stage: started by torchrun, joined into a group, and one exit code for all of them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from torch import distributed

import backtrail
from backtrail.errors import Interrupted, UserError
from backtrail.pipeline import Declared
from backtrail.training.data_parallel import Group

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # passed on to the processes, which save their state and stop


def count_processes(device: torch.device) -> int:
    """Processes to start: BACKTRAIL_PROCESSES, or one for each GPU that is visible; 1 inside a group that torchrun has started.

    Raises UserError if BACKTRAIL_PROCESSES is no number of processes.
    """
    if "WORLD_SIZE" in os.environ:
        return 1
    text = os.environ.get("BACKTRAIL_PROCESSES") or str(torch.cuda.device_count() if device.type == "cuda" else 1)
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"BACKTRAIL_PROCESSES = {text!r} should be a number of processes, 1 or more")
    return int(text)


def launch(n: int, stage: Declared) -> NoReturn:
    """Run a stage in n processes on this machine and exit with the code of the first that failed, 0 if none did."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", SIGNALS)
    entry = str(Path(backtrail.__file__).with_name("__main__.py"))  # this package, whichever is installed
    try:
        run(parse_args(["--standalone", "--nproc-per-node", str(n), entry, stage.command, "--stage", stage.name]))
    except ChildFailedError as error:
        sys.exit(error.get_first_failure()[1].exitcode)
    except SignalException:
        sys.exit(Interrupted.exit_code)
    sys.exit(0)


@contextmanager
def join(name: str, device: torch.device, several: bool, micro_batch: int | None) -> Iterator[Group]:
    """The group that torchrun has started this process in, or the process alone. Raises UserError for a stage that runs in one process."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1:
        yield Group(micro_batch=micro_batch)
        return
    if not several:
        raise UserError(f"stage {name} runs in one process: start it without torchrun")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(distributed.get_rank(), processes, micro_batch)
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
