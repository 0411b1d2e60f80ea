"""EDM's published checkpoints (arXiv 2206.00364): the pickle is taken apart as data and becomes our own nets, with the same weights."""

from pathlib import Path

from pydantic import ValidationError

from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.build import construct_empty
from backtrail.nets.dhariwal import DhariwalConfiguration
from backtrail.nets.edm import EDM, IDDPM, VE, VP, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.nets.weights import fill
from backtrail.parameters.base import Section
from backtrail.teachers.modules import children, named_tensors
from backtrail.teachers.pickled_tensors import read_pickle
from backtrail.teachers.recognised import INSTEAD, of_texts
from backtrail.teachers.unpickle import Record

MAX_ARGUMENTS = 100  # of a network; SongUNet has 16


PRECONDITIONINGS: dict[str, type[Section]] = {"EDMPrecond": EDM, "VPPrecond": VP, "VEPrecond": VE, "iDDPMPrecond": IDDPM}
NETS: dict[str, type[Section]] = {"SongUNet": SongUNetConfiguration, "DhariwalUNet": DhariwalConfiguration}


def import_edm(path: str | Path) -> NetDenoiser:
    """The averaged network (`ema`) of an EDM checkpoint as a denoiser (eval mode, no gradients, on the CPU).

    Nothing in the file is executed. Raises UserError if it is not such a checkpoint or does not fit the network that it names.
    """
    content = read_pickle(path)
    outer = content.get("ema") if type(content) is dict else None
    inner = children(outer).get("model")
    if not (type(outer) is type(inner) is Record and outer.class_name in PRECONDITIONINGS and inner.class_name in NETS):
        wanted = f"expected a network `ema` of one of {', '.join(PRECONDITIONINGS)}: {INSTEAD}"
        expected = of_texts([getattr(outer, "class_name", None)]) or wanted
        raise UserError(f"{path} is a pickle but no EDM checkpoint: {expected}")
    configuration = _configuration(outer, inner, path)
    weights = {_our_name(name): value for name, value in named_tensors(outer, path)}
    if len({value.untyped_storage().data_ptr() for value in weights.values()}) != len(weights):
        raise UserError(f"{path} holds two weights in one place of memory, which no EDM network has: use the published file")
    return fill(construct_empty(configuration, path), weights, path, "use the published file")


def _configuration(outer: Record, inner: Record, path: str | Path) -> EDMTeacher:
    """The configuration that the two records tell: the network's by the arguments it was made with, the rest by attributes."""
    arguments = inner.state.get("_init_kwargs")
    arguments = dict(arguments) if type(arguments) is dict else {}
    label_dropout = arguments.pop("label_dropout", 0)  # no part of the network: it says what its training has shown it
    if len(arguments) > MAX_ARGUMENTS:  # each unknown one would become an error of its own
        raise UserError(
            f"{path} describes a network by {len(arguments)} arguments, expected at most {MAX_ARGUMENTS}: use the published file"
        )
    preconditioning, net = PRECONDITIONINGS[outer.class_name], NETS[inner.class_name]
    constants = {name: outer.state[name] for name in preconditioning.model_fields if name in outer.state}
    try:
        return EDMTeacher(preconditioning=preconditioning(**constants), net=net(**arguments), label_dropout=label_dropout)
    except (ValidationError, TypeError) as error:
        found = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("arguments",), "msg": "are not named"}
        where = repr(".".join(map(str, found["loc"]))[:100])
        raise UserError(f"{path} describes a network that cannot be built: {where}: {found['msg']}; use the published file") from None


def _our_name(name: str) -> str:
    """The released networks lie under `model.`, ours under `net.`; below that the names agree."""
    return "net." + name.removeprefix("model.") if name.startswith("model.") else name
