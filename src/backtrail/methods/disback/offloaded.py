"""The nodes of a path of large networks: the teacher and the one that is asked for where they compute, the others in the host's memory."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, SupportsIndex

from backtrail.denoiser import NetDenoiser
from backtrail.methods.disback.path import DegradationPath
from backtrail.nets.lora import Adapted


class Offloaded(list[NetDenoiser]):
    """Nodes as a list; a node that is asked for by its number takes the place of the one before it. Node 0, the teacher, stays."""

    def __init__(self, nodes: list[NetDenoiser], place: Callable[[NetDenoiser], NetDenoiser]):
        super().__init__(nodes)
        self.place, self.there = place, 0
        super().__setitem__(0, place(nodes[0]))

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        if isinstance(index, slice):
            raise TypeError("nodes are asked for one at a time")
        number = range(len(self))[index]
        if number and number != self.there:
            if self.there:
                super().__getitem__(self.there).to("cpu")
            super().__setitem__(number, self.place(super().__getitem__(number)))
            self.there = number
        return super().__getitem__(number)


def offloaded(path: DegradationPath, place: Callable[[NetDenoiser], NetDenoiser]) -> DegradationPath:
    """The path where `place` puts its nets, of whole networks two at a time; nodes that are adapters are small and share one base."""
    if any(isinstance(node, Adapted) for node in path.nodes):
        return path.placed(place)
    return replace(path, nodes=Offloaded(path.nodes, place), start=place(path.start) if path.start else None)
