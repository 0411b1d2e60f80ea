"""A network of diffusers or transformers as its files describe it, held against them before the library makes memory for it."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backtrail.artifacts import load_json
from backtrail.data.diffusers_folder import CONFIG, Weights
from backtrail.errors import UserError
from backtrail.nets.unallocated import unallocated
from backtrail.nets.weights import check_numbers, shown, wrong_shape
from backtrail.teachers.reader import Refused
from backtrail.teachers.zipped_tensors import check_work

MAX_SIDE = 4096  # pixels of an image
CURE = "fetch it again"


def check_weights(found: Weights, build: Callable[[dict[str, Any]], nn.Module]) -> None:
    """Raises UserError unless the weights that were found can be those of the network that `build` makes of the config.json beside them.

    The network is built without memory, its modules counted, its shapes and dtypes held against those of the weights, which must be finite,
    and its numbers against their bytes. Names are left to the library, which knows older ones too.
    """
    folder, config = found.folder, found.folder / CONFIG
    net = _described(load_json(config), config, build)
    files = [folder / name for name in found.files]
    expected = net.state_dict()
    n_numbers, n_bytes = sum(value.numel() for value in expected.values()), sum(file.stat().st_size for file in files)
    for file in files:
        try:
            for name, value in _tensors(file):
                if name.endswith("position_ids"):  # 0, 1, 2, ..., which text encoders of 2022 kept, and the library counts itself
                    continue
                if wrong := wrong_shape(expected, {name: value}):
                    raise UserError(f"{folder} does not fit its config.json ({wrong})")
                if value.numel() > n_bytes:
                    raise UserError(f"{file} holds {shown(name)} of {value.numel()} numbers in {n_bytes} bytes: {CURE}")
                check_numbers(expected, {name: value}, file, CURE)
        except UserError:
            raise
        except Refused as refusal:
            raise UserError(f"{folder} cannot be read by diffusers, and nothing in it was executed ({file.name}: {refusal})") from None
        except Exception as error:  # whatever torch and safetensors raise for a file that is cut, or holds more than tensors
            reason = shown(" ".join(str(error).split()))
            raise UserError(f"{folder} cannot be read by diffusers ({file.name}: {type(error).__name__}: {reason}): {CURE}") from None
    if files and n_numbers > n_bytes:
        raise UserError(f"{config} describes a network of {n_numbers} numbers, its weights have {n_bytes} bytes: {CURE}")


def check_levels(levels: Tensor, path: Path) -> None:
    """Raises UserError unless the noise levels [T] grow from above zero to a finite one: betas all between 0 and 1 give such levels."""
    if len(levels) < 2 or not (levels[0] > 0 and (levels.diff() > 0).all() and levels.isfinite().all()):
        raise UserError(f"{path} has betas that are not all between 0 and 1, or fewer than two: the noise does not grow from step to step")


def _described(configuration: Any, path: Path, build: Callable[[dict[str, Any]], nn.Module]) -> nn.Module:
    """The network without memory for its weights."""
    if not isinstance(configuration, dict):
        raise UserError(f"{path} describes no network: expected what `save_pretrained` writes")
    for key, value in configuration.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path} has {shown(key)} = {value}: expected a finite number")
    size = configuration.get("sample_size", 1)
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or any(type(side) is not int or not 1 <= side <= MAX_SIDE for side in sides):
        raise UserError(f"{path} has sample_size = {ascii(size)[:60]}: expected the pixels of an image's side (or two), 1 to {MAX_SIDE}")
    try:
        with unallocated(str(path)):
            return build(configuration)
    except UserError:
        raise
    except Exception as error:  # the library raises whatever its layers do
        reason = shown(" ".join(str(error).split()))
        raise UserError(f"{path} describes a network that cannot be built ({type(error).__name__}: {reason}): {CURE}") from None


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights of a file by name, mapped where its format allows it: their shapes can be looked at before their numbers are read."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                yield name, tensors.get_tensor(name)
        return
    check_work(file)
    for name, value in torch.load(file, map_location="cpu", weights_only=True, mmap=True).items():
        if isinstance(value, Tensor):
            yield name, value
