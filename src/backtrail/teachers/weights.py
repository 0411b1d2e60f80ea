"""Gives a denoiser that was built without memory its weights."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from backtrail.errors import UserError


def fill(denoiser: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> nn.Module:
    """Make the tensors themselves the weights of `denoiser`, which was built under `torch.device("meta")`.

    Returns it in eval mode, without gradients. Raises UserError unless every name, shape and dtype agrees.
    """
    expected = denoiser.state_dict()
    for name, value in weights.items():
        if name in expected and value.dtype != expected[name].dtype:
            raise UserError(f"{path} holds {name} as {value.dtype}, expected {expected[name].dtype}: use the published file")
    try:
        denoiser.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip().rstrip(".")[:300]
        raise UserError(f"{path} does not fit the network that it names ({detail}): use the published file") from None
    return denoiser.eval().requires_grad_(False)
