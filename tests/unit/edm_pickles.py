"""Writes checkpoints in the structure of EDM's published pickles, from our own nets, for the tests of the import."""

import contextlib
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from backtrail.nets.edm import EDMTeacher, build
from backtrail.nets.edm_layers import FourierFrequencies, ResampleConv2d, UNetBlock
from backtrail.teachers.edm import NETS, PRECONDITIONINGS

SOURCE = "import torch\n\nclass SongUNet(torch.nn.Module):\n    pass\n" + 100 * "# long enough for the wide kind of text\n"


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("the import called the reconstruction function of the checkpoint")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Foreign(nn.Module):
    """A module that pickles as EDM's decorator makes it: a call with one dict of type, version, source, class name and state."""

    def __init__(self, class_name: str, source: str, init_kwargs: dict[str, Any], **attributes: Any):
        super().__init__()
        self.__dict__.update(attributes, _init_args=(), _init_kwargs=init_kwargs)
        object.__setattr__(self, "_hidden", (class_name, source))

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key != "_hidden"}
        class_name, source = self._hidden
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}
        return _reconstruct_persistent_obj, (meta,), None


class ForeignObject:
    """The same for an object that is no module (the loss, the augmentation)."""

    def __init__(self, class_name: str, **state: Any):
        self.class_name, self.state = class_name, state

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.class_name, "state": self.state}
        return _reconstruct_persistent_obj, (meta,), None


@contextlib.contextmanager
def foreign_package() -> Iterator[None]:
    """The package that the pickle names, importable while the pickle is written and gone when it is read."""
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    package.persistence = module
    sys.modules.update({"torch_utils": package, "torch_utils.persistence": module})
    try:
        yield
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]


def _class_name(module: nn.Module) -> str:
    names = {ResampleConv2d: "Conv2d", FourierFrequencies: "FourierEmbedding", UNetBlock: "UNetBlock", nn.Linear: "Linear"}
    return names.get(type(module), type(module).__name__)


def foreign(module: nn.Module, source: str, class_name: str, init_kwargs: dict[str, Any], **attributes: Any) -> nn.Module:
    """Our module as a foreign one: the same parameters and buffers under the same names."""
    if isinstance(module, nn.ModuleDict):
        copy: nn.Module = nn.ModuleDict()
    else:
        copy = Foreign(class_name, source, init_kwargs, **attributes)
    copy.training = False
    copy._parameters = OrderedDict(module._parameters)
    copy._buffers = OrderedDict((name, value) for name, value in module._buffers.items())
    copy._modules = OrderedDict()
    for name, child in module._modules.items():
        if child is not None:
            extra = {"skip_scale": np.sqrt(0.5)} if isinstance(child, UNetBlock) else {}
            copy._modules[name] = foreign(child, source, _class_name(child), {}, **extra)
    return copy


def randomised(configuration: EDMTeacher, seed: int = 0) -> nn.Module:
    """A denoiser with weights that no layer's zero or identity start hides."""
    denoiser = build(configuration).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    for name, parameter in denoiser.named_parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
        parameter.copy_(torch.randn(parameter.shape, generator=random) * scale + ("norm" in name and name.endswith("weight")))
    return denoiser


def foreign_ema(denoiser: nn.Module, configuration: EDMTeacher, source: str = SOURCE, **attributes: Any) -> nn.Module:
    """The denoiser as the `ema` entry of a checkpoint."""
    net = configuration.net
    kwargs = net.model_dump(mode="json", exclude={"kind", "step_condition"})
    if configuration.label_dropout:
        kwargs["label_dropout"] = configuration.label_dropout
    constants = configuration.preconditioning.model_dump(exclude={"kind"})
    inner_name = next(name for name, model in NETS.items() if type(net) is model)
    outer_name = next(name for name, model in PRECONDITIONINGS.items() if type(configuration.preconditioning) is model)
    outer = foreign(denoiser, source, outer_name, {"model_type": inner_name, **kwargs}, label_dim=net.label_dim, use_fp16=True, **constants)
    outer._modules = OrderedDict(model=foreign(denoiser.net, source, inner_name, kwargs, label_dropout=0, **attributes))
    return outer


def write_checkpoint(path: Path, ema: Any, protocol: int = 4) -> Path:
    """The file that EDM's training loop writes: the averaged network among plain entries."""
    content = {
        "ema": ema,
        "loss_fn": ForeignObject("EDMLoss", P_mean=-1.2, P_std=1.2, sigma_data=0.5, _init_args=(), _init_kwargs={}),
        "augment_pipe": ForeignObject("AugmentPipe", p=0.12, xflip=1e8, scale=1.0, _init_args=(), _init_kwargs={"p": 0.12}),
        "dataset_kwargs": {"path": "images.zip", "xflip": False, "resolution": 32},
    }
    with foreign_package(), open(path, "wb") as file:
        pickle.dump(content, file, protocol=protocol)
    return path
