"""EDM's published checkpoints (arXiv 2206.00364): the pickle is taken apart as data and becomes our own nets, with the same weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from backtrail.denoiser import EDMDenoiser
from backtrail.errors import UserError
from backtrail.nets.dhariwal import DhariwalConfiguration, DhariwalUNet
from backtrail.nets.songunet import SongUNet, SongUNetConfiguration
from backtrail.parameters.base import Section
from backtrail.teachers.pickled_tensors import read_pickle
from backtrail.teachers.preconditioning import IDDPMDenoiser, VEDenoiser, VPDenoiser
from backtrail.teachers.unpickle import Record
from backtrail.teachers.weights import fill

MAX_MODULES = 20_000  # of a network; the largest published one has under 1,000


class EDM(Section):
    """EDM's own preconditioning."""

    kind: Literal["edm"] = "edm"
    sigma_data: float = Field(0.5, gt=0, description="standard deviation of the data, in units of the images' range [-1, 1]")

    def denoiser(self, net: nn.Module) -> nn.Module:
        return EDMDenoiser(net, self.sigma_data)


class VP(Section):
    """Variance-preserving preconditioning."""

    kind: Literal["vp"] = "vp"
    beta_d: float = Field(19.9, gt=0, description="extent of the noise schedule")
    beta_min: float = Field(0.1, gt=0, description="its slope at the start")
    M: int = Field(1000, ge=2, le=100_000, description="number of time steps")

    def denoiser(self, net: nn.Module) -> nn.Module:
        return VPDenoiser(net, self.beta_d, self.beta_min, self.M)


class VE(Section):
    """Variance-exploding preconditioning."""

    kind: Literal["ve"] = "ve"

    def denoiser(self, net: nn.Module) -> nn.Module:
        return VEDenoiser(net)


class IDDPM(Section):
    """Improved DDPM's preconditioning."""

    kind: Literal["iddpm"] = "iddpm"
    C_1: float = Field(0.001, gt=0, le=1, description="smallest ratio of neighbouring signal levels")
    C_2: float = Field(0.008, ge=0, description="offset of the cosine schedule")
    M: int = Field(1000, ge=2, le=100_000, description="number of time steps")

    def denoiser(self, net: nn.Module) -> nn.Module:
        return IDDPMDenoiser(net, self.C_1, self.C_2, self.M)


class EDMTeacher(Section):
    """All that is needed, beside the weights, to build an imported teacher again."""

    format: Literal["edm"] = "edm"
    preconditioning: Annotated[EDM | VP | VE | IDDPM, Field(discriminator="kind")]
    net: Annotated[SongUNetConfiguration | DhariwalConfiguration, Field(discriminator="kind")]


PRECONDITIONINGS: dict[str, type[Section]] = {"EDMPrecond": EDM, "VPPrecond": VP, "VEPrecond": VE, "iDDPMPrecond": IDDPM}
NETS: dict[str, type[Section]] = {"SongUNet": SongUNetConfiguration, "DhariwalUNet": DhariwalConfiguration}


def build(configuration: EDMTeacher) -> nn.Module:
    """A denoiser D(x, sigma, condition) with new weights; under `torch.device("meta")` without any."""
    net = configuration.net
    return configuration.preconditioning.denoiser(SongUNet(net) if isinstance(net, SongUNetConfiguration) else DhariwalUNet(net))


def import_edm(path: str | Path) -> tuple[nn.Module, EDMTeacher]:
    """The averaged network (`ema`) of an EDM checkpoint as a denoiser (eval mode, no gradients, on the CPU) and its configuration.

    Nothing in the file is executed. Raises UserError if it is not such a checkpoint or does not fit the network that it names.
    """
    content = read_pickle(path)
    outer = content.get("ema") if type(content) is dict else None
    inner = _modules(outer).get("model")
    if not (type(outer) is type(inner) is Record and outer.class_name in PRECONDITIONINGS and inner.class_name in NETS):
        raise UserError(f"{path} is a pickle but no EDM checkpoint: expected a network `ema` of one of {', '.join(PRECONDITIONINGS)}")
    configuration = _configuration(outer, inner, path)
    weights = {_our_name(name): value for name, value in _tensors(outer, path)}
    if len({value.untyped_storage().data_ptr() for value in weights.values()}) != len(weights):
        raise UserError(f"{path} holds two weights in one place of memory, which no EDM network has: use the published file")
    with torch.device("meta"):
        denoiser = build(configuration)
    return fill(denoiser, weights, path), configuration


def _configuration(outer: Record, inner: Record, path: str | Path) -> EDMTeacher:
    """The configuration that the two records tell: the network's by the arguments it was made with, the rest by attributes."""
    arguments = inner.state.get("_init_kwargs")
    # label_dropout acts in the teacher's own training alone.
    arguments = {key: value for key, value in arguments.items() if key != "label_dropout"} if type(arguments) is dict else {}
    preconditioning, net = PRECONDITIONINGS[outer.class_name], NETS[inner.class_name]
    constants = {name: outer.state[name] for name in preconditioning.model_fields if name in outer.state}
    try:
        return EDMTeacher(preconditioning=preconditioning(**constants), net=net(**arguments))
    except (ValidationError, TypeError) as error:
        found = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("arguments",), "msg": "are not named"}
        where = repr(".".join(map(str, found["loc"]))[:100])
        raise UserError(f"{path} describes a network that cannot be built: {where}: {found['msg']}; use the published file") from None


def _modules(record: Any) -> dict[str, Any]:
    """The named children of a module's record; a container keeps them in the same place as any module."""
    modules = record.state.get("_modules") if type(record) is Record else None
    return modules if type(modules) is dict else {}


def _tensors(root: Record, path: str | Path) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers by dotted name, in the order of the file."""
    pending, n_modules = [("", root)], 0
    while pending:
        prefix, record = pending.pop()
        n_modules += 1
        if n_modules > MAX_MODULES:
            raise UserError(f"{path} holds more than {MAX_MODULES} modules, which no EDM network has: use the published file")
        for group in ("_parameters", "_buffers"):
            tensors = record.state.get(group)
            for name, value in tensors.items() if type(tensors) is dict else ():
                if isinstance(value, Tensor):
                    yield f"{prefix}{name}", value
        children = [(f"{prefix}{name}.", child) for name, child in _modules(record).items() if type(child) is Record]
        pending.extend(reversed(children))


def _our_name(name: str) -> str:
    """The released networks lie under `model.`, ours under `net.`; below that the names agree."""
    return "net." + name.removeprefix("model.") if name.startswith("model.") else name
