"""What the nets share: what a denoiser asks of each, attention, and what is computed again in the backward pass instead of kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    """What a denoiser asks of its network.

    image_shape: [C, H, W] of the images that it is for. n_classes: classes that it is conditioned on; 0 is unconditional.
    step_condition: whether it takes its sampler's number of time stamps (SFD-v).
    """

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int, step_condition: bool):
        super().__init__()
        self.image_shape, self.n_classes, self.step_condition = image_shape, n_classes, step_condition


def laid_out(x: Tensor) -> Tensor:
    """x [B, C, H, W] as a network's activations lie in memory: on a CPU with the channels last, wherever they lay before."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v over the last axis: [B, heads, d, n] each -> the same shape.

    On the CPU as two products, which take channels that lie apart as they are and leave the result in the layout of an image; torch's own
    attention copies all three, and pays where the n x n weights do not fit.
    """
    if q.device.type != "cpu":
        return functional.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
    weights = torch.matmul((q * q.shape[2] ** -0.5).mT, k).softmax(-1)
    return torch.matmul(v, weights.mT)


class _NormSiLU(torch.autograd.Function):
    """silu(group norm(x)) of which x and the groups' moments are kept; the norm is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, n_groups: int, eps: float) -> Tensor:
        ctx.sizes = len(x), x.shape[1], x[0, 0].numel(), n_groups
        y, mean, rstd = torch.native_group_norm(x, weight, bias, *ctx.sizes, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return functional.silu(y, inplace=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        n, channels, _, n_groups = ctx.sizes
        scale = (rstd[:, :, None] * weight.reshape(n_groups, -1)).reshape(n, channels)
        shift = bias - scale * mean.repeat_interleave(channels // n_groups, dim=1)
        scale, shift = (t.reshape(n, channels, *[1] * (x.ndim - 2)) for t in (scale, shift))
        of_norm = torch.ops.aten.silu_backward(gradient, torch.addcmul(shift, x, scale))
        needed = list(ctx.needs_input_grad[:3])
        return *torch.ops.aten.native_group_norm_backward(of_norm, x, mean, rstd, weight, *ctx.sizes, needed), None, None


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """silu(norm(x)) with a third of the memory kept for the backward pass; under autocast, whose state that pass lacks, without."""
    if not torch.is_grad_enabled():
        return functional.silu(norm(x), inplace=True)
    if not x.is_meta and torch.is_autocast_enabled(x.device.type):
        return functional.silu(norm(x))
    return _NormSiLU.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)


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

    A network of the diffusers library has a switch of its own. Raises ValueError for a net without such blocks.
    """
    if hasattr(net, "enable_gradient_checkpointing"):
        net.enable_gradient_checkpointing()
        return
    blocks = [module for module in net.modules() if hasattr(module, "checkpointed")]
    if not blocks:
        raise ValueError(f"{type(net).__name__} has no blocks to compute again")
    for block in blocks:
        block.checkpointed = True


def is_checkpointed(net: nn.Module) -> bool:
    """Whether its blocks keep only their inputs."""
    return any(getattr(module, "checkpointed", False) or getattr(module, "gradient_checkpointing", False) for module in net.modules())
