"""The degradation path as files: node 0 is the teacher, the last node fits the initial student best; `path.csv` says what each one is.

Where another method's student is the start, it lies in the folder too, so that a path says by itself whose it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.nets.lora import Adapted, load_adapter, save_adapter
from backtrail.tables import load_csv, save_csv
from backtrail.tensors import load_tensors, tensors_digest

COLUMNS = ["node", "step", "loss_student", "loss_data", "digest"]
START = "start.safetensors"


@dataclass(frozen=True)
class Origin:
    """Where a path begins: the teacher, and the student of another method that is the start, if one is.

    start_cost: what that student has cost, in forwards of the net on a batch.
    """

    teacher: NetDenoiser
    start: NetDenoiser | None = None
    start_cost: int = 0

    def placed(self, place: Callable[[NetDenoiser], NetDenoiser]) -> "Origin":
        """The same origin with its nets where `place` puts them."""
        return replace(self, teacher=place(self.teacher), start=place(self.start) if self.start else None)


@dataclass(frozen=True)
class DegradationPath:
    """Nodes s'_0 (the teacher) ... s'_N, frozen and in eval mode, and the table of `path.csv`; start and start_cost as in `Origin`."""

    nodes: list[NetDenoiser]
    table: pd.DataFrame
    start: NetDenoiser | None = None
    start_cost: int = 0

    @property
    def teacher(self) -> NetDenoiser:
        return self.nodes[0]

    @property
    def recorded_steps(self) -> int:
        """Updates that the recording took; 0 for the path of one node."""
        return int(self.table["step"].iloc[-1])

    @property
    def cost(self) -> int:
        """Network forwards on one batch that came before the student's first update: those of the start, and of the recording (per update
        one of the student, three of the node: forward and backward)."""
        return self.start_cost + 4 * self.recorded_steps

    def placed(self, place: Callable[[NetDenoiser], NetDenoiser]) -> "DegradationPath":
        """The same path with its nets where `place` puts them."""
        return replace(self, nodes=[place(node) for node in self.nodes], start=place(self.start) if self.start else None)


def node_file(folder: str | Path, node: int) -> Path:
    """The file of a node."""
    return Path(folder) / f"node-{node:03d}.safetensors"


def save_path(folder: str | Path, path: DegradationPath, recording: dict[str, Any]) -> None:
    """Write the nodes, the start and `path.csv`; `recording` says how it ended."""
    start = tensors_digest(path.start.state_dict()) if path.start else None
    if path.start:
        save_denoiser(Path(folder) / START, path.start, cost=path.start_cost)
    for index, node in enumerate(path.nodes):
        facts = {"node": index, "recording": recording, "start": start}
        if isinstance(node, Adapted):
            save_adapter(node_file(folder, index), node, path.teacher, **facts)
        else:
            save_denoiser(node_file(folder, index), node, **facts)
    digests = [tensors_digest(node.state_dict()) for node in path.nodes]
    save_csv(Path(folder) / "path.csv", path.table.assign(node=range(len(digests)), digest=digests)[COLUMNS])


def load_path(folder: str | Path) -> DegradationPath:
    """Read a path back.

    Raises UserError if a node or the start is missing, is not the one that `path.csv` or node 0 names (by digest), or has another
    architecture than the teacher.
    """
    table = load_csv(Path(folder) / "path.csv")
    if list(table.columns) != COLUMNS or list(table["node"]) != list(range(len(table))) or table.empty:
        raise UserError(f"{folder}/path.csv does not list the nodes 0, 1, 2, ...: run the stage `path` again")
    first, *later = table.itertuples()
    teacher = _named(node_file(folder, 0), first.digest, "path.csv")
    others = [_named(node_file(folder, row.node), row.digest, "path.csv", teacher) for row in later]
    named = load_tensors(node_file(folder, 0))[1].get("start")
    start = _named(Path(folder) / START, named, "node 0") if named else None
    for file, node in [*((node_file(folder, i), node) for i, node in enumerate(others, start=1)), (Path(folder) / START, start)]:
        if node is not None and node.configuration != teacher.configuration:
            raise UserError(f"{file} is another architecture than the teacher (node 0): run the stage `path` again")
    cost = load_tensors(Path(folder) / START)[1]["cost"] if start else 0
    return DegradationPath([teacher, *others], table, start, cost)


def _named(file: Path, digest: str, by: str, base: NetDenoiser | None = None) -> NetDenoiser:
    """The denoiser in `file`, which `by` names by its digest; where it holds adapters, they are those of `base`."""
    denoiser = (load_adapter(file, base) if base is not None else None) or load_denoiser(file)
    if (found := tensors_digest(denoiser.state_dict())) != digest:
        raise UserError(f"{file} has digest {found[:12]}, {by} names {digest[:12]}: run the stage `path` again")
    return denoiser
