"""How a stage of large networks is executed: each process with whole networks, or all with parts of them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.build import construct_empty
from backtrail.nets.sharded import Sharded, divide, gathered
from backtrail.nets.weights import fill
from backtrail.running.torch_stage import TorchStage
from backtrail.training.data_parallel import Group
from backtrail.training.loop import Execution
from backtrail.training.sharded import ShardedGroup, ShardedScratch

PATIENCE = timedelta(hours=6)  # the others wait while the first process writes whole networks: tens of gigabytes, and their digests
Place = Callable[[NetDenoiser], NetDenoiser]


def execution(stage: TorchStage, batch: int, sharded: bool) -> tuple[Place, Execution]:
    """Where denoisers are placed, and how the run is executed. `sharded` divides every network's weights among the processes, if there are
    several.

    Raises UserError if the batch cannot be divided among them, before anything is loaded.
    """
    group = stage.group
    group.own(batch)
    if not sharded or group.processes == 1:
        return stage.place, Execution(stage.scratch, group)
    distributed.set_timeout(PATIENCE)
    mesh = init_device_mesh(stage.device.type, (group.processes,))
    scratch = None if stage.scratch is None else ShardedScratch(stage.scratch)
    stage.record.notes["sharded"] = True

    def place(denoiser: NetDenoiser) -> NetDenoiser:
        # Divided first: the whole of a network that fits nowhere never has to lie on one GPU.
        return stage.place(denoiser if isinstance(denoiser, Sharded) else divide(denoiser, mesh))

    return place, Execution(scratch, ShardedGroup(group.rank, group.processes, group.micro_batch, scratch))


def check_agreement(group: Group, found: dict[str, list[Any]]) -> None:
    """Raises UserError unless all processes of a divided run have come to the same: each decides by what it has measured itself."""
    if not isinstance(group, ShardedGroup):
        return
    of_all: list[Any] = [None] * group.processes
    distributed.all_gather_object(of_all, found)
    if any(of_one != of_all[0] for of_one in of_all):
        raise UserError(
            "the processes have measured different losses of the same weights: set processes.sharded to false, or use one kind of GPU"
        )


def undivided(stage: TorchStage, denoiser: NetDenoiser) -> NetDenoiser:
    """A denoiser of whole weights in the host's memory, for the process that writes; every process has to ask."""
    if not isinstance(denoiser, Sharded):
        return denoiser
    weights = gathered(denoiser.state_dict(), stage.writes)
    if not stage.writes:
        return denoiser
    return fill(construct_empty(denoiser.configuration, "the network that is written"), weights, "the run", "run the stage again")
