"""The degradation path as files: node 0 is the teacher, the last node fits the initial student best; `path.csv` says what each one is."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.tables import load_csv, save_csv
from backtrail.tensors import tensors_digest

COLUMNS = ["node", "step", "loss_student", "loss_data", "digest"]


@dataclass(frozen=True)
class DegradationPath:
    """Nodes s'_0 (the teacher) ... s'_N, frozen and in eval mode, and the table of `path.csv`."""

    nodes: list[NetDenoiser]
    table: pd.DataFrame

    @property
    def teacher(self) -> NetDenoiser:
        return self.nodes[0]

    @property
    def recorded_steps(self) -> int:
        """Updates that the recording took; 0 for the path of one node."""
        return int(self.table["step"].iloc[-1])

    @property
    def cost(self) -> int:
        """Network forwards on one batch that the recording took: per update one of the student, three of the node (forward and
        backward)."""
        return 4 * self.recorded_steps


def node_file(folder: str | Path, node: int) -> Path:
    """The file of a node."""
    return Path(folder) / f"node-{node:03d}.safetensors"


def save_path(folder: str | Path, nodes: list[NetDenoiser], rows: list[dict], recording: dict) -> None:
    """Write the nodes and `path.csv`; `rows` has step, loss_student and loss_data per node, `recording` says how it ended."""
    for index, node in enumerate(nodes):
        save_denoiser(node_file(folder, index), node, node=index, recording=recording)
    table = pd.DataFrame([{"node": i, **row, "digest": tensors_digest(nodes[i].state_dict())} for i, row in enumerate(rows)])
    save_csv(Path(folder) / "path.csv", table[COLUMNS])


def load_path(folder: str | Path) -> DegradationPath:
    """Read a path back.

    Raises UserError if a node is missing, is not the one that `path.csv` names (by digest), or has another architecture than the teacher.
    """
    table = load_csv(Path(folder) / "path.csv")
    if list(table.columns) != COLUMNS or list(table["node"]) != list(range(len(table))) or table.empty:
        raise UserError(f"{folder}/path.csv does not list the nodes 0, 1, 2, ...: run the stage `path` again")
    nodes = []
    for row in table.itertuples():
        file = node_file(folder, row.node)
        node = load_denoiser(file)
        if (found := tensors_digest(node.state_dict())) != row.digest:
            raise UserError(f"{file} has digest {found[:12]}, path.csv names {row.digest[:12]}: run the stage `path` again")
        if nodes and node.configuration != nodes[0].configuration:
            raise UserError(f"{file} is another architecture than the teacher (node 0): run the stage `path` again")
        nodes.append(node)
    return DegradationPath(nodes, table)
