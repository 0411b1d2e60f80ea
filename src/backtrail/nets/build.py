"""A denoiser as a file: safetensors weights whose header says how to build the net that they fit, loaded with strict=True.

One reader and one writer for every denoiser of the house: built here, or imported in the formats of EDM and of diffusers.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backtrail.denoiser import EDMDenoiser, NetDenoiser
from backtrail.errors import UserError
from backtrail.nets import discrete_time, edm, text_unet
from backtrail.nets.blocks import checkpoint_blocks, is_checkpointed
from backtrail.nets.diffusers_steps import folded_weights, start_steps, tell_steps
from backtrail.nets.lora import Adapted, merged_state
from backtrail.nets.mlp import MLP
from backtrail.nets.step_condition import add_step_condition, fold_step_condition
from backtrail.nets.unallocated import unallocated
from backtrail.nets.unet import UNet
from backtrail.nets.weights import fill
from backtrail.parameters.base import Section, validate
from backtrail.parameters.net import MLPParameters, NetParameters, UNetParameters
from backtrail.randomness import derive_seed
from backtrail.tensors import load_tensors, save_tensors

NETS: dict[str, Callable[[Any], nn.Module]] = {"unet": UNet, "mlp": MLP}


class BuiltIn(Section):
    """All that is needed, beside the weights, to build a denoiser of the built-in nets again."""

    preconditioning: Literal["edm"] = "edm"
    sigma_data: float
    net: NetParameters


def _built_in(configuration: BuiltIn) -> NetDenoiser:
    return EDMDenoiser(NETS[configuration.net.kind](configuration.net), configuration.sigma_data)


OF_THE_HOUSE = (BuiltIn, text_unet.TextUNetTeacher)  # their nets have the step condition as a parameter
# By the header's `format`; the built-in nets' header has none.
FORMATS: dict[str | None, tuple[type[Section], Callable[[Any], NetDenoiser]]] = {
    None: (BuiltIn, _built_in),
    "edm": (edm.EDMTeacher, edm.build),
    "diffusers": (discrete_time.DiffusersTeacher, discrete_time.build),
    "text": (text_unet.TextUNetTeacher, text_unet.build),
}


def construct(configuration: Section, seed: int = 0) -> NetDenoiser:
    """A new denoiser with weights drawn from (seed, "init"), whatever the state of torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        _, build_one = FORMATS[getattr(configuration, "format", None)]
        denoiser = build_one(configuration)
    denoiser.configuration = configuration
    return denoiser


def construct_empty(configuration: Section, path: str | Path) -> NetDenoiser:
    """The same without memory for weights, to be given them by `weights.fill`; `path` is the file that described it."""
    with unallocated(str(path)):
        return construct(configuration)


def build(parameters: UNetParameters | MLPParameters, sigma_data: float, seed: int = 0) -> NetDenoiser:
    """A new denoiser of a built-in net, with EDM preconditioning."""
    return construct(BuiltIn(sigma_data=sigma_data, net=parameters), seed)


def save_denoiser(path: str | Path, denoiser: NetDenoiser, weights: dict[str, Tensor] | None = None, **extra: Any) -> None:
    """Write the denoiser's weights (or `weights`, an average of them) with its configuration and `extra` metadata.

    Adapters are merged into the weights: what is written is a whole network, whoever reads it.
    """
    if denoiser.configuration is None:
        raise ValueError("a denoiser without a configuration cannot be built again: make it by `construct`")
    values = merged_state(denoiser, weights) if isinstance(denoiser, Adapted) else weights or denoiser.state_dict()
    save_tensors(path, values, {"denoiser": denoiser.configuration.model_dump(mode="json"), **extra})


def load_denoiser(path: str | Path) -> NetDenoiser:
    """Read a denoiser back, in eval mode, without gradients and on the CPU.

    Raises UserError if the file is absent, no denoiser, or does not fit the net that its header describes.
    """
    weights, metadata = load_tensors(path)
    described = metadata.get("denoiser")
    if not isinstance(described, dict):
        raise UserError(f"{path} holds no denoiser: its header names none; expected a file that `save_denoiser` wrote")
    if (kind := described.get("format")) not in FORMATS:
        raise UserError(f"{path} holds a denoiser of the unknown format {kind!r}; known: {', '.join(filter(None, FORMATS))}")
    configuration = validate(FORMATS[kind][0], described, "denoiser", path)
    # Copies, because what is mapped from a file need not lie on the boundaries that fast kernels like.
    own = {name: value.clone() for name, value in weights.items()}
    return fill(construct_empty(configuration, path), own, path, "run the stage that makes it again")


def with_step_condition(denoiser: NetDenoiser, seed: int = 0, random_start: bool = False) -> NetDenoiser:
    """A copy of `denoiser` whose blocks also take the step condition (SFD-v).

    The new layers start at zero, so that the copy equals the original for every condition; `random_start` draws them as a fresh layer,
    as the released code does. The copy computes as the original does. Raises UserError for a network that cannot take one.
    """
    configuration = denoiser.configuration
    if isinstance(configuration, OF_THE_HOUSE):
        extended = _built_in_with_steps(denoiser, configuration, seed, random_start)
    elif isinstance(configuration, edm.EDMTeacher):
        extended = _with_net(configuration, add_step_condition(denoiser.net, "released" if random_start else "zero", seed))
    elif isinstance(configuration, discrete_time.DiffusersTeacher):
        extended = discrete_time.DiffusersDenoiser(tell_steps(copy.deepcopy(denoiser.net)), configuration).train(denoiser.training)
        extended.configuration = configuration.model_copy(update={"step_condition": True})
        start_steps(extended.net, "released" if random_start else "zero", seed)
    else:
        raise ValueError("a denoiser without a configuration takes no step condition: make it by `construct`")
    extended.told, extended.autocast, extended.compiled = denoiser.told, denoiser.autocast, denoiser.compiled
    if is_checkpointed(denoiser.net):
        checkpoint_blocks(extended.net)
    return extended


def _built_in_with_steps(denoiser: NetDenoiser, configuration: Any, seed: int, random_start: bool) -> NetDenoiser:
    extended = construct(_told_steps(configuration, True), seed)
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


def _told_steps(configuration: Any, told: bool) -> Any:
    """The same net, with or without the step condition."""
    return configuration.model_copy(update={"net": configuration.net.model_copy(update={"step_condition": told})})


def _with_net(configuration: edm.EDMTeacher, net: nn.Module) -> NetDenoiser:
    """An EDM denoiser around a net that is there already."""
    denoiser = edm.around(net, configuration).to(next(net.parameters()).device)
    denoiser.configuration = configuration.model_copy(update={"net": net.configuration})
    return denoiser


@torch.no_grad()
def at_step_condition(denoiser: NetDenoiser, num_steps: int) -> NetDenoiser:
    """A copy of `denoiser` as a net without a step condition, which answers as the original does when it is told `num_steps`.

    For a fixed number of time stamps the condition adds a constant per channel, and the layer's own bias takes it up.
    """
    configuration = denoiser.configuration
    if not denoiser.step_condition:
        return copy.deepcopy(denoiser)
    if isinstance(configuration, edm.EDMTeacher):
        return _with_net(configuration, fold_step_condition(denoiser.net, num_steps)).eval().requires_grad_(False)
    if isinstance(configuration, discrete_time.DiffusersTeacher):
        plain = construct(configuration.model_copy(update={"step_condition": False}))
        plain.told = denoiser.told
        plain.net.load_state_dict(folded_weights(denoiser.net, num_steps), strict=True)
        return plain.eval().requires_grad_(False)
    embedding = denoiser.net.embed_step(torch.tensor([float(num_steps)]))[0]
    values = dict(denoiser.state_dict())
    for name, module in denoiser.named_modules():
        if getattr(module, "affine_step", None) is not None:
            bias = f"{name}.linear.bias" if isinstance(denoiser.net, MLP) else f"{name}.conv1.bias"
            values[bias] = values[bias] + module.affine_step(embedding)
    plain = construct(_told_steps(configuration, False))
    plain.told = denoiser.told
    plain.load_state_dict({name: values[name] for name in plain.state_dict()}, strict=True)
    return plain.eval().requires_grad_(False)
