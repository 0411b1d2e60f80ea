"""Low-rank adapters through peft: denoisers that are trained, copied and kept by their adapters alone, on one shared frozen base.

An adapted denoiser has modules of its own around the very tensors of its base, so that a student, its fake score and a path's nodes take
the memory of one network. To whoever trains it, its parameters and its state are its adapters.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.weights import check_numbers, misfit
from backtrail.parameters.base import validate
from backtrail.parameters.lora import Lora
from backtrail.randomness import derive_seed
from backtrail.tensors import load_tensors, save_tensors, tensors_digest

ADAPTER = "default"  # peft's name of the one adapter that a layer has here
CURE = "run the stage that makes it again"


class Adapted(NetDenoiser):
    """What an adapted denoiser does otherwise than its own class; `lora` is how it is adapted."""

    lora: Lora

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The adapters'."""
        return ((name, value) for name, value in super().named_parameters(*arguments, **options) if is_adapter(name))

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """The adapters'."""
        return {name: value for name, value in self.whole_state(*arguments, **options).items() if is_adapter(name)}

    def whole_state(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Adapters and base, by peft's names."""
        return super().state_dict(*arguments, **options)

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over adapters. Raises RuntimeError unless they are all of this denoiser's, and no others: `strict` is always meant."""
        own = self.state_dict()
        if found := misfit(own, state_dict):
            raise RuntimeError(f"these are no adapters of this network: {found}")
        for name, value in own.items():
            value.copy_(state_dict[name])
        return torch.nn.modules.module._IncompatibleKeys([], [])

    def __deepcopy__(self, memo: dict[int, Any]) -> "Adapted":
        """A copy of the adapters on the same base."""
        memo.update({id(value): value for name, value in super().named_parameters() if not is_adapter(name)})
        memo.update({id(value): value for value in self.buffers()})
        made = memo[id(self)] = self.__class__.__new__(self.__class__)
        made.__dict__ = copy.deepcopy(self.__dict__, memo)
        return made


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter and not to the base."""
    return ".lora_A." in name or ".lora_B." in name


def with_adapter(denoiser: NetDenoiser, p: Lora, seed: int, purpose: str) -> Adapted:
    """The denoiser with adapters that do nothing yet (B is zero), on its own frozen tensors; A is drawn from (seed, purpose).

    Raises UserError if no layer has one of the names that `p` targets, or peft is not installed.
    """
    peft = _peft()
    names = [name for name, layer in denoiser.net.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d)) and _is_target(name, p)]
    if not names:
        raise UserError(f"lora.targets = {p.targets} name no layer of the network")
    made = copy.deepcopy(denoiser, {id(value): value for value in (*denoiser.parameters(), *denoiser.buffers())})
    exactly = "|".join(re.escape(name) for name in names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, f"lora-{purpose}"))
        peft.inject_adapter_in_model(peft.LoraConfig(r=p.rank, lora_alpha=p.alpha, target_modules=f"({exactly})"), made.net, ADAPTER)
    made.__class__ = type(f"Adapted{type(denoiser).__name__}", (Adapted, type(denoiser)), {})
    made.lora = p
    return made.train(denoiser.training)


def to_train(denoiser: NetDenoiser, p: Lora | None, seed: int, purpose: str) -> NetDenoiser:
    """A copy to be trained: whole, or by adapters where `p` asks for them or `denoiser` has them already."""
    return copy.deepcopy(denoiser) if p is None or isinstance(denoiser, Adapted) else with_adapter(denoiser, p, seed, purpose)


@torch.no_grad()
def merged_state(denoiser: Adapted, adapters: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The state of the same network without adapters, whose weights have taken them up; adapters: in place of its own."""
    if adapters is not None:
        denoiser = copy.deepcopy(denoiser)
        denoiser.load_state_dict(adapters)
    plain = {name.replace(".base_layer.", "."): value for name, value in denoiser.whole_state().items() if not is_adapter(name)}
    for name, layer in denoiser.named_modules():
        if hasattr(layer, "get_delta_weight"):
            plain[f"{name}.weight"] = plain[f"{name}.weight"] + layer.get_delta_weight(ADAPTER)
    return plain


def save_adapter(path: str | Path, denoiser: Adapted, base: NetDenoiser, **extra: Any) -> None:
    """Write the adapters alone, with the digest of the base that they are for and `extra` metadata."""
    described = {"lora": denoiser.lora.model_dump(mode="json"), "base": tensors_digest(base.state_dict())}
    save_tensors(path, denoiser.state_dict(), {"adapter": described, **extra})


def load_adapter(path: str | Path, base: NetDenoiser) -> Adapted | None:
    """The denoiser whose adapters the file `path` holds, on `base`: eval mode, no gradients; None if it holds a whole network.

    Raises UserError if they are another base's, or do not fit it.
    """
    tensors, metadata = load_tensors(path)
    described = metadata.get("adapter")
    if described is None:
        return None
    if described["base"] != (own := tensors_digest(base.state_dict())):
        raise UserError(f"{path} holds adapters of the network {described['base'][:12]}, and not of {own[:12]}: {CURE}")
    made = with_adapter(base, validate(Lora, described["lora"], "adapter.lora", path), 0, "loaded")
    if found := misfit(made.state_dict(), tensors):
        raise UserError(f"{path} does not fit the network that it is for ({found}): {CURE}")
    check_numbers(made.state_dict(), tensors, path, CURE)
    made.load_state_dict(tensors)
    return made.eval().requires_grad_(False)


def _is_target(name: str, p: Lora) -> bool:
    return p.targets is None or any(name == end or name.endswith(f".{end}") for end in p.targets)


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise UserError("adapters (lora) need the package peft, which is not installed: add the extra `latent`") from None
    return peft
