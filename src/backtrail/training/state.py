"""Everything about a run that has to survive a kill, as one object that can be written to and read from a file of plain tensors."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from backtrail.denoiser import NetDenoiser
from backtrail.parameters.training import Adam, Average
from backtrail.training.data_parallel import ALONE, Group


@dataclass
class TrainingState:
    """The modules that are trained, their optimisers, weight averages, and the log so far.

    A kind of run that counts more is a subclass with JSON-able fields of its own, which have defaults. Random numbers need no place here:
    they are functions of the step (`randomness.py`).
    """

    modules: dict[str, NetDenoiser]
    optimisers: dict[str, Optimizer]
    averages: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    snapshots: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # weights kept on the way, by name
    rows: list[dict[str, Any]] = field(default_factory=list)  # the log, one JSON-able row per logged step
    group: Group = ALONE  # the processes that share each batch
    step: int = 0

    @property
    def device(self) -> torch.device:
        """Where the modules are."""
        return next(next(iter(self.modules.values())).parameters()).device

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names; they share memory with the state."""
        flat = {f"module/{m}/{k}": v for m, module in self.modules.items() for k, v in module.state_dict().items()}
        for kind, groups in (("average", self.averages), ("snapshot", self.snapshots)):
            flat |= {f"{kind}/{name}/{k}": v for name, weights in groups.items() for k, v in weights.items()}
        for name, optimiser in self.optimisers.items():
            for index, slots in optimiser.state_dict()["state"].items():
                flat |= {f"optimiser/{name}/{index}/{slot}": torch.as_tensor(value) for slot, value in slots.items()}
        return flat

    def facts(self) -> dict[str, Any]:
        """The rest, JSON-able."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in TrainingState.__dataclass_fields__}
        groups = {name: [_plain(g) for g in optimiser.state_dict()["param_groups"]] for name, optimiser in self.optimisers.items()}
        return {"step": self.step, "rows": self.rows, "own": own, "param_groups": groups}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take over what `tensors` and `facts` returned. Raises KeyError or RuntimeError if they belong to other modules."""
        grouped: dict[tuple[str, str], dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, owner, rest = name.split("/", 2)
            grouped.setdefault((kind, owner), {})[rest] = tensor
        for name, module in self.modules.items():
            module.load_state_dict(grouped[("module", name)], strict=True)
        for name, optimiser in self.optimisers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for key, tensor in grouped.get(("optimiser", name), {}).items():
                index, slot = key.split("/", 1)
                slots.setdefault(int(index), {})[slot] = tensor
            optimiser.load_state_dict({"state": slots, "param_groups": [_tupled(g) for g in facts["param_groups"][name]]})
        self.averages = {
            owner: {name: tensor.to(self.device) for name, tensor in weights.items()}
            for (kind, owner), weights in grouped.items()
            if kind == "average"
        }
        self.snapshots = {owner: weights for (kind, owner), weights in grouped.items() if kind == "snapshot"}
        self.step, self.rows = facts["step"], facts["rows"]
        for name, value in facts["own"].items():
            setattr(self, name, value)


def adam(module: nn.Module, p: Adam) -> Optimizer:
    """Adam over the module's weights; the fused kernel is about four times faster and just as exact."""
    return torch.optim.Adam(module.parameters(), lr=p.lr, betas=p.betas, eps=p.eps, fused=True)


def optimiser_step(optimiser: Optimizer, p: Adam, step: int, factor: float = 1.0, group: Group = ALONE) -> None:
    """One update at learning rate lr x warm-up x `factor`, then the gradients are dropped; `step` counts from 0.

    The gradients of the group's processes are added up first.
    """
    options = optimiser.param_groups[0]
    group.add_up(parameter.grad for parameter in options["params"] if parameter.grad is not None)
    options["lr"] = p.lr * factor * min(1.0, (step + 1) / p.warmup if p.warmup else 1.0)
    if p.clip is not None:
        nn.utils.clip_grad_norm_(options["params"], p.clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's weights, where they are; `snapshot` is one on the CPU."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's weights on the CPU, so that many of them do not fill a GPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}


@torch.no_grad()
def update_average(average: dict[str, Tensor], module: nn.Module, p: Average, step: int, batch: int) -> None:
    """Move `average` towards the module's weights; EDM's half-life in images with ramp-up. `step` counts from 0, as in the loop."""
    half_life = p.half_life if p.ramp is None else min(p.half_life, p.ramp * step * batch)
    decay = 0.5 ** (batch / max(half_life, 1e-8))
    for name, tensor in module.state_dict().items():
        average[name].lerp_(tensor, 1 - decay)


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in group.items()}


def _tupled(group: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if k == "betas" else v for k, v in group.items()}
