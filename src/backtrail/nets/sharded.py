"""Networks whose weights are divided among the processes of a run, by torch's fully sharded data parallelism (`fully_shard`).

Each process keeps its part of every weight, of its gradient and of what its optimiser remembers of it; a block's whole weights stand in
memory only while the block computes (arXiv 2304.11277). Where products are computed in half precision their shortened weights stay for the
backward pass, unless blocks are computed again there (`runtime.checkpointing`). For whole networks that fit in no other way: adapters share
one instead.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from backtrail.denoiser import NetDenoiser
from backtrail.nets.blocks import checkpoint_blocks, is_checkpointed
from backtrail.nets.build import construct_empty
from backtrail.nets.weights import misfit

BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "Attention")  # of diffusers' U-Nets: what is gathered at a time; the rest at once


class Sharded(NetDenoiser):
    """What a denoiser of divided weights does otherwise than its own class. `mesh`: the processes that have the parts.

    Its state is of `DTensor`s, of which a process holds its part; so are its parameters, but for those outside of the blocks between a
    forward and its backward pass. Every process calls it at the same time.
    """

    mesh: DeviceMesh

    def network(self, *inputs: Any, **options: Any) -> Any:
        """As in `NetDenoiser`, without a copy of each weight in the products' precision that would stand until the forward's end."""
        if self.autocast is None:
            output = self.net(*inputs, **options)
        else:
            with torch.autocast(self.device.type, self.autocast, cache_enabled=False):
                output = self.net(*inputs, **options)
        if not torch.is_grad_enabled():
            self.net.reset_iter_state()  # the order of the blocks, which a backward pass would forget
        return output

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over weights, whole ones or parts. Raises RuntimeError unless they are all of this network's: `strict` is always meant."""
        own = self.state_dict()
        if found := misfit(own, state_dict):
            raise RuntimeError(f"these are no weights of this network: {found}")
        for name, value in own.items():
            own_part(value).copy_(own_part(divided_like(value, state_dict[name])))
        return torch.nn.modules.module._IncompatibleKeys([], [])

    def __deepcopy__(self, memo: dict[int, Any]) -> "Sharded":
        """A copy whose weights are divided in the same way. torch copies no such network, since its hooks are tied to its processes."""
        plain = construct_empty(self.configuration, "the network that is copied").train(self.training)
        plain.told, plain.autocast = self.told, self.autocast
        if is_checkpointed(self.net):
            checkpoint_blocks(plain.net)
        made = memo[id(self)] = divide(plain, self.mesh)
        made.to_empty(device=self.device)  # memory for the parts alone
        made.load_state_dict(self.state_dict())
        for mine, its in zip(self.parameters(), made.parameters(), strict=True):
            its.requires_grad_(mine.requires_grad)
        for mine, its in zip(self.buffers(), made.buffers(), strict=True):
            its.copy_(mine)
        return made


def divide(denoiser: NetDenoiser, mesh: DeviceMesh) -> Sharded:
    """The denoiser itself, its weights divided among the processes of `mesh`: each keeps its part where the mesh computes.

    Gradients are sums over the processes, as `training.data_parallel` weighs them.
    """
    blocks = [module for module in denoiser.net.modules() if type(module).__name__ in BLOCKS or module is denoiser.net]
    for block in reversed(blocks):  # what is inside first
        fully_shard(block, mesh=mesh)
        assert isinstance(block, FSDPModule)
        block.set_gradient_divide_factor(1.0)
        block.set_force_sum_reduction_for_comms(True)  # gloo has no sum that scales
    denoiser.__class__ = type(f"Sharded{type(denoiser).__name__}", (Sharded, type(denoiser)), {})
    assert isinstance(denoiser, Sharded)
    denoiser.mesh = mesh
    return denoiser


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of one that is not divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def divided_like(like: Tensor, tensor: Tensor) -> Tensor:
    """A tensor divided as `like` is; every process hands in the whole, and nothing travels."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a divided tensor, gathered where its mesh computes; every process has to ask."""
    if not isinstance(tensor, DTensor):
        return tensor
    mesh = tensor.device_mesh
    part = tensor.to_local().detach().to(mesh.device_type)  # a snapshot's parts lie in the host's memory
    return DTensor.from_local(part, mesh, tensor.placements, shape=tensor.shape, stride=tensor.stride()).full_tensor()


def gathered(weights: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole weights in the host's memory, tensor by tensor, for the process that keeps them; {} for the others, which have to ask too.

    Where none is divided, they are returned as they are, to every process.
    """
    if not any(isinstance(tensor, DTensor) for tensor in weights.values()):
        return dict(weights)
    kept = {}
    for name, tensor in weights.items():
        found = whole(tensor)
        if keep:
            kept[name] = found.detach().cpu()
    return kept
