"""A denoiser as a file: safetensors weights whose header says how to build the net that they fit, loaded with strict=True."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backtrail.denoiser import EDMDenoiser
from backtrail.errors import UserError
from backtrail.nets.mlp import MLP
from backtrail.nets.unet import UNet
from backtrail.parameters.base import validate
from backtrail.parameters.net import MLPParameters, UNetParameters
from backtrail.randomness import derive_seed
from backtrail.tensors import load_tensors, save_tensors

NETS = {"unet": (UNetParameters, UNet), "mlp": (MLPParameters, MLP)}


def build(parameters: UNetParameters | MLPParameters, sigma_data: float, seed: int = 0) -> EDMDenoiser:
    """A new denoiser with weights drawn from (seed, "init"), whatever the state of torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        _, net = NETS[parameters.kind]
        return EDMDenoiser(net(parameters), sigma_data)


def describe(denoiser: EDMDenoiser) -> dict[str, Any]:
    """What has to be known, beside the weights, to build the denoiser again."""
    return {"preconditioning": "edm", "sigma_data": denoiser.sigma_data, "net": denoiser.net.p.model_dump()}


def save_denoiser(path: str | Path, denoiser: EDMDenoiser, weights: dict[str, Tensor] | None = None, **extra: Any) -> None:
    """Write the denoiser's weights (or `weights`, an average of them) with its description and `extra` metadata."""
    save_tensors(path, weights or denoiser.state_dict(), {"denoiser": describe(denoiser), **extra})


def load_denoiser(path: str | Path) -> EDMDenoiser:
    """Read a denoiser back, in eval mode and on the CPU.

    Raises UserError if the file is absent, no denoiser, or does not fit the net that its header describes.
    """
    weights, metadata = load_tensors(path)
    if "denoiser" not in metadata:
        raise UserError(f"{path} holds no denoiser: its header names none; expected a file that `save_denoiser` wrote")
    described = metadata["denoiser"]
    if (kind := described["net"].get("kind")) not in NETS:
        raise UserError(f"{path} holds a net of the unknown kind {kind!r}; known: {', '.join(NETS)}")
    parameters, _ = NETS[kind]
    denoiser = build(validate(parameters, described["net"], "net", path), described["sigma_data"])
    try:
        denoiser.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the net that its header describes: {str(error).splitlines()[-1].strip()}") from None
    return denoiser.eval().requires_grad_(False)


def with_step_condition(denoiser: EDMDenoiser, seed: int = 0, random_start: bool = False) -> EDMDenoiser:
    """A copy of `denoiser` whose blocks also take the step condition (SFD-v).

    The new layers start at zero, so that the copy equals the original for every condition; `random_start` draws them as a fresh layer,
    as the released code does.
    """
    extended = build(denoiser.net.p.model_copy(update={"step_condition": True}), denoiser.sigma_data, seed)
    missing, unexpected = extended.load_state_dict(denoiser.state_dict(), strict=False)
    if unexpected or any("step" not in name for name in missing):
        raise ValueError(f"only step layers may be new; missing {missing}, unexpected {unexpected}")
    if random_start:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "step-condition"))
            for module in extended.modules():
                if getattr(module, "affine_step", None) is not None:
                    module.affine_step.reset_parameters()
    return extended


@torch.no_grad()
def at_step_condition(denoiser: EDMDenoiser, num_steps: int) -> EDMDenoiser:
    """A copy of `denoiser` as a net without a step condition, which answers as the original does when it is told `num_steps`.

    For a fixed number of time stamps the condition adds a constant per channel, and the layer's own bias takes it up.
    """
    if not denoiser.net.p.step_condition:
        return copy.deepcopy(denoiser)
    embedding = denoiser.net.embed_step(torch.tensor([float(num_steps)]))[0]
    values = dict(denoiser.state_dict())
    for name, module in denoiser.named_modules():
        if getattr(module, "affine_step", None) is not None:
            bias = f"{name}.conv1.bias" if isinstance(denoiser.net, UNet) else f"{name}.linear.bias"
            values[bias] = values[bias] + module.affine_step(embedding)
    plain = build(denoiser.net.p.model_copy(update={"step_condition": False}), denoiser.sigma_data)
    plain.load_state_dict({name: values[name] for name in plain.state_dict()}, strict=True)
    return plain.eval().requires_grad_(False)
