"""Run every stage of a small suite in one process, with the code that lies in the suite's own repository: `python build_suite.py`.

Called in the suite's folder with PYTHONPATH at its copy of the code, so that the records name that copy and its commit.
"""

import networkx as nx
from dvc.repo import Repo

from backtrail.cli import backtrail

with Repo(".") as repo:
    stages = list(reversed(list(nx.topological_sort(repo.index.graph))))
for stage in stages:
    command = stage.cmd.split()[-1]
    backtrail([command, *(() if command in ("code", "ledger") else ("--stage", stage.name))], standalone_mode=False)
with Repo(".") as repo:
    repo.commit(force=True)
