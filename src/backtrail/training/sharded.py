"""A run whose networks are divided among its processes: gradients come added up already, and resume states are whole all the same.

What lies on the disk is what a run of one process writes, and it can be resumed by another number of processes.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from backtrail.errors import UserError
from backtrail.nets.sharded import divided_like, gathered
from backtrail.training.data_parallel import Group
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState


class ShardedScratch(Scratch):
    """Where a divided run keeps its resume state, in the folder of `plain`. All processes gather it, so all save after the same update."""

    def __init__(self, plain: Scratch):
        super().__init__(plain.folder, plain.writes)
        self.plain, self.due, self.state = plain, False, cast(TrainingState | None, None)
        self._quiet_until = -math.inf

    def restore(self, state: TrainingState) -> bool:
        """As in `Scratch`; each process takes its parts. Raises UserError if the processes found different states."""
        found = super().restore(cast(TrainingState, _Whole(state)))
        steps = torch.tensor([state.step, -state.step], device=state.device)
        distributed.all_reduce(steps, distributed.ReduceOp.MAX)
        if (newest := int(steps[0])) != (oldest := -int(steps[1])):
            raise UserError(f"the processes have read the states of steps {oldest} to {newest} in {self.folder}: start the stage again")
        self.plain.resumed_from, self.state = self.resumed_from, state
        return found

    def save(self, state: TrainingState, wait: bool = False) -> None:
        """Save now, which every process has to ask for. Without `wait` it is a wish, which this process's clock had, and which all hear of
        after the next update (`ShardedGroup.total`).

        All wait while a whole state is gathered and written, so wishes are not heard for ten times as long.
        """
        if not wait:
            self.due = time.monotonic() >= self._quiet_until
            return
        began, self.due = time.monotonic(), False
        super().save(cast(TrainingState, _Whole(state, gathered(state.tensors(), self.writes))), wait=True)
        self.state, self._copies = state, {}
        ended = time.monotonic()
        self._quiet_until = ended + max(10 * (ended - began), 5.0)

    def finish(self) -> None:
        """As in `Scratch`; the run has ended, and what follows needs the memory."""
        super().finish()
        self.state = None

    def _copy(self, tensors: dict[str, Tensor]) -> None:
        """What was gathered is a copy, and nothing moves on until it is written."""
        self._copies = tensors


@dataclass(frozen=True)
class ShardedGroup(Group):
    """The processes of a divided run, whose gradients have been added up by the backward pass, part by part.

    scratch: where the run keeps its state, if it does.
    """

    scratch: ShardedScratch | None = None

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """As in `Group`, of what is not divided."""
        if plain := [tensor for tensor in tensors if not isinstance(tensor, DTensor)]:
            super().add_up(plain)

    def total(self, value: float, device: torch.device | str = "cpu") -> float:
        """As in `Group`, which the loop asks after each update whether to stop; where a process wished to save, all save now."""
        wished = self.scratch is not None and self.scratch.due
        both = torch.tensor([value, float(wished)], dtype=torch.float64, device=device)
        distributed.all_reduce(both)
        if both[1] and self.scratch is not None and self.scratch.state is not None:
            self.scratch.save(self.scratch.state, wait=True)
        return both[0].item()


class _Whole:
    """A divided state as `Scratch` sees it: the tensors that it reads are whole, and those that it brings back are divided."""

    def __init__(self, state: TrainingState, tensors: dict[str, Tensor] | None = None):
        self._state, self._tensors = state, tensors or {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def tensors(self) -> dict[str, Tensor]:
        return self._tensors

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Raises KeyError or RuntimeError as the state's own does."""
        weights = {owner: module.state_dict() for owner, module in self._state.modules.items()}
        of_optimisers = {owner: list(module.parameters()) for owner, module in self._state.modules.items()}
        divided = {}
        for name, tensor in tensors.items():
            kind, owner, rest = name.split("/", 2)
            if kind == "optimiser":
                index, slot = rest.split("/", 1)
                divided[name] = tensor if slot == "step" else divided_like(of_optimisers[owner][int(index)], tensor)
            elif kind == "snapshot":  # of the module that it is named after, or of the only one; it lies in the host's memory
                module = next((module for module in weights if owner.startswith(f"{module}-")), next(iter(weights)))
                divided[name] = divided_like(weights[module][rest], tensor).to("cpu")
            else:
                divided[name] = divided_like(weights[owner][rest], tensor)
        self._state.restore(divided, facts)
