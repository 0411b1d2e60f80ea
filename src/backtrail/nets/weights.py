"""Gives a denoiser that was built without memory its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from backtrail.errors import UserError

M = TypeVar("M", bound=nn.Module)


def fill(module: M, weights: Mapping[str, Tensor], path: str | Path, cure: str) -> M:
    """Make the tensors themselves the weights of `module`, which was built under `torch.device("meta")`.

    Floating-point weights of another width are converted: the released nets compute in float32 whatever their weights are kept in.
    Returns it in eval mode, without gradients. Raises UserError, with `cure`, unless every name and shape agrees, and every other dtype.
    """
    expected = module.state_dict()
    kinds = {name: value.dtype for name, value in expected.items() if value.is_floating_point()}
    weights = {name: value.to(kinds[name]) if name in kinds and value.is_floating_point() else value for name, value in weights.items()}
    for name, value in weights.items():
        if name in expected and value.dtype != expected[name].dtype:
            raise UserError(f"{path} holds {name} as {value.dtype}, expected {expected[name].dtype}: {cure}")
    try:
        module.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip().rstrip(".")[:300]
        raise UserError(f"{path} does not fit the network that it names ({detail}): {cure}") from None
    return module.eval().requires_grad_(False)
