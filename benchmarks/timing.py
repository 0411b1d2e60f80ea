"""Clocks that a busy machine does not fool, and counts that do not need a clock."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from unittest import mock

import torch
from torch import Tensor, nn

from backtrail.training.state import TrainingState

REST = "data, noise, rest"


@dataclass(frozen=True)
class Time:
    """What a call took: seconds on the wall, and of this process on the CPU."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Clock:
    """Times calls on a device. On a GPU the wall decides; on a CPU the process's own time does, which leaves the neighbours out."""

    device: torch.device

    def time(self, call: Callable[[], object]) -> Time:
        self.wait()
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        self.wait()
        return Time(time.perf_counter() - wall, time.process_time() - cpu)

    def deciding(self, spent: Time) -> float:
        """The seconds that ratios are made of."""
        return spent.wall_s if self.device.type == "cuda" else spent.cpu_s

    def now(self) -> float:
        """The same as a reading, for parts of a call."""
        self.wait()
        return time.perf_counter() if self.device.type == "cuda" else time.process_time()

    def wait(self) -> None:
        """Let the device finish what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def interleaved(self, calls: Mapping[str, Callable[[int], object]], seconds: float, at_least: int = 3) -> dict[str, list[Time]]:
        """Call each in turn, again and again for `seconds` (wall), starting with another each time; they get the turn's number."""
        names, spent, began = list(calls), {name: [] for name in calls}, time.perf_counter()
        turn = 0
        while turn < at_least or time.perf_counter() - began < seconds:
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                spent[name].append(self.time(lambda name=name, turn=turn: calls[name](turn)))
            turn += 1
        return spent

    def ratio(self, spent: Mapping[str, list[Time]], above: str, below: str) -> float:
        """The median over the turns of one call's time divided by another's in the same turn."""
        return median(self.deciding(a) / max(self.deciding(b), 1e-9) for a, b in zip(spent[above], spent[below], strict=True))

    @staticmethod
    def wall_ratio(spent: Mapping[str, list[Time]], above: str, below: str) -> float:
        """The same on the wall, whatever decides."""
        return median(a.wall_s / b.wall_s for a, b in zip(spent[above], spent[below], strict=True))


def middle(spent: list[Time]) -> Time:
    """The medians of both clocks."""
    return Time(median(t.wall_s for t in spent), median(t.cpu_s for t in spent))


@dataclass
class Count:
    """What ran: forwards and backwards of each net, and the nets in the order in which gradients reached their weights."""

    forwards: dict[str, int] = field(default_factory=dict)
    graphs: dict[str, int] = field(default_factory=dict)
    backwards: dict[str, int] = field(default_factory=dict)
    reached: list[str] = field(default_factory=list)

    @property
    def cost(self) -> int:
        """In forwards: a backward is worth two."""
        return sum(self.forwards.values()) + 2 * sum(self.backwards.values())


@contextmanager
def counting(nets: Mapping[str, nn.Module]) -> Iterator[Count]:
    """Count inside the block, by hooks on the nets, their outputs and their weights."""
    count = Count({name: 0 for name in nets}, {name: 0 for name in nets}, {name: 0 for name in nets})

    def add(of: dict[str, int], name: str) -> None:
        of[name] += 1

    def ran(name: str, output: Tensor) -> None:
        add(count.forwards, name)
        if output.requires_grad:
            add(count.graphs, name)
            output.register_hook(lambda gradient: add(count.backwards, name))

    def reached(name: str) -> None:
        if count.reached[-1:] != [name]:
            count.reached.append(name)

    with ExitStack() as stack:
        for name, net in nets.items():
            handles = [net.register_forward_hook(lambda module, inputs, output, name=name: ran(name, output))]
            for weight in filter(lambda weight: weight.requires_grad, net.parameters()):
                handles.append(weight.register_post_accumulate_grad_hook(lambda weight, name=name: reached(name)))
            for handle in handles:
                stack.callback(handle.remove)
        yield count


@contextmanager
def parts(clock: Clock, nets: Mapping[str, nn.Module], state: TrainingState) -> Iterator[dict[str, float]]:
    """Seconds by part inside the block; what is on none of the nets nor an optimiser is the rest. The hooks cost time of their own.

    A net's name up to its first digit is its part. A backward is booked on the net whose weights it gave gradients.
    """
    spent = dict.fromkeys([*(_part(name) for name in nets), "optimiser", REST], 0.0)
    started: list[float] = []
    backward = Tensor.backward

    def stop(part: str) -> None:
        spent[part] += clock.now() - started.pop()

    def timed_backward(*arguments: object, **options: object) -> None:
        before = {name: _has_gradient(net) for name, net in nets.items()}
        started.append(clock.now())
        backward(*arguments, **options)
        stop(next(_part(name) for name, net in nets.items() if _has_gradient(net) and not before[name]))

    with ExitStack() as stack:
        for name, net in nets.items():
            handles = [
                net.register_forward_pre_hook(lambda *_: started.append(clock.now())),
                net.register_forward_hook(lambda *_, name=name: stop(_part(name))),
            ]
            for handle in handles:
                stack.callback(handle.remove)
        for optimiser in state.optimisers.values():
            stack.callback(optimiser.register_step_pre_hook(lambda *_: started.append(clock.now())).remove)
            stack.callback(optimiser.register_step_post_hook(lambda *_: stop("optimiser")).remove)
        stack.enter_context(mock.patch.object(Tensor, "backward", timed_backward))
        began = clock.now()
        yield spent
        spent[REST] = clock.now() - began - sum(spent.values())


def _part(name: str) -> str:
    return name.rstrip("0123456789 ")


def _has_gradient(net: nn.Module) -> bool:
    return any(weight.grad is not None for weight in net.parameters())
