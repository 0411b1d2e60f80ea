"""Weights that come from a file: held against the network that they are for, and put into it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from backtrail.errors import UserError

M = TypeVar("M", bound=nn.Module)


def fill(module: M, weights: Mapping[str, Tensor], path: str | Path, cure: str) -> M:
    """Make the tensors themselves the weights of `module`, which was built under `torch.device("meta")`.

    Floating-point weights of another width are converted: the released nets compute in float32 whatever their weights are kept in.
    Returns it in eval mode, without gradients. Raises UserError, with `cure`, unless every name and shape agrees, and every other dtype,
    and all numbers are finite.
    """
    expected = module.state_dict()
    if found := misfit(expected, weights):
        raise UserError(f"{path} does not fit the network that it names ({found}): {cure}")
    check_numbers(expected, weights, path, cure)
    converted = {name: value.to(expected[name].dtype) for name, value in weights.items()}
    module.load_state_dict(converted, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def misfit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """The first difference in names or shapes between the weights that a network has and those that a file has, or None."""
    for kind, names in (("missing", expected.keys() - found.keys()), ("unexpected", found.keys() - expected.keys())):
        if names:
            return f"{kind} keys: {shown(min(map(str, names)))}"
    return wrong_shape(expected, found)


def wrong_shape(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """The first weight of both that has two shapes, or None."""
    for name, value in found.items():
        if name in expected and value.shape != expected[name].shape:
            return f"size mismatch for {shown(name)}: {list(value.shape)} in the file, {list(expected[name].shape)} in the network"
    return None


def check_numbers(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | Path, cure: str) -> None:
    """Raises UserError unless the weights that came in from a file are numbers that a network can have.

    Real floating-point ones, of whatever width, where the network has floating-point weights or does not have the name; its own dtype
    elsewhere. All are finite; what is on the meta device has no numbers yet, and is held against its dtype alone.
    """
    for name, value in found.items():
        due = expected[name].dtype if name in expected and not expected[name].is_floating_point() else None
        if value.dtype != due if due is not None else not value.is_floating_point():
            stated = due or (expected[name].dtype if name in expected else "floating-point numbers")
            raise UserError(f"{path} holds {shown(name)} as {value.dtype}, expected {stated}: {cure}")
        if due is None and not _is_finite(value):
            raise UserError(f"{path} holds NaN or infinity in {shown(name)}, which no trained network has: {cure}")


def shown(name: object) -> str:
    """A name of a foreign file, for a sentence."""
    return ascii(str(name))[1:-1][:100]


def _is_finite(value: Tensor) -> bool:
    """Whether all numbers are, without memory for an answer to each: NaN is passed on by both extremes."""
    if value.is_meta or not value.numel():
        return True
    smallest, largest = (value.float() if value.element_size() < 2 else value).aminmax()
    return bool(smallest.isfinite() and largest.isfinite())
