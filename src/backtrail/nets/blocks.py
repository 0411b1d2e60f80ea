"""What the residual blocks of every net share: their number, and being computed again in the backward pass instead of kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def number_layers(net: nn.Module, kind: type[nn.Module]) -> None:
    """Give each block of the net its number, by which its dropout masks are drawn."""
    for number, block in enumerate(module for module in net.modules() if isinstance(module, kind)):
        block.layer = number


def recomputed(block: nn.Module, compute: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`compute(*inputs)`; of a block that is `checkpointed` only the inputs are kept for the backward pass (arXiv 1604.06174)."""
    if block.checkpointed and torch.is_grad_enabled():
        return checkpoint(compute, *inputs, use_reentrant=False)
    return compute(*inputs)


def checkpoint_blocks(net: nn.Module) -> None:
    """Let the blocks of a net keep only their inputs for the backward pass: a third more time, a fraction of the memory.

    Raises ValueError for a net without such blocks.
    """
    blocks = [module for module in net.modules() if hasattr(module, "checkpointed")]
    if not blocks:
        raise ValueError(f"{type(net).__name__} has no blocks to compute again")
    for block in blocks:
        block.checkpointed = True
