"""A suite small enough for a test: the real dvc.yaml, tiny nets, images made here. Every stage's own command is run, in DVC's order."""

import copy
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from PIL import Image

from backtrail.cli import backtrail
from backtrail.laid_down import lay_down
from unit.refusals import as_yaml, self_contained

ROOT = Path(__file__).parents[2]


def tiny(values: dict[str, Any]) -> dict[str, Any]:
    """The root's parameters with everything made small, on a folder of images."""
    p = copy.deepcopy(values)
    p |= {"suite": "tiny", "seeds": [0]}
    p["data"] = {"name": "image-folder", "resolution": 16, "local": "images", "held_out": 80}
    p["classifier"] |= {"n_steps": 60, "batch_size": 32, "width": 8}
    p["teacher"] |= {"steps": 30, "batch": 16}
    p["teacher"]["net"] |= {"channels": [8, 16]}
    p["teacher_samples"]["samplers"] = {
        "heun": {"solver": "heun", "num_steps": [18]},
        "dpmpp-3m": {"solver": "dpmpp-3m", "num_steps": [3, 4, 5, 6]},
    }
    for method in p["score_distillation"].values():
        method |= {"updates": 12, "batch": 8, "evaluate_every": 4, "snapshots": [0, 2, 4]}
        if method["recording"]:
            method["recording"] |= {"steps": 6, "nodes": 2, "evaluation_batch": 16}
            method["node_updates"] = 2
    for method in p["trajectory_distillation"].values():
        method |= {"rounds": 4, "batch": 8, "pool": 2, "evaluate_every": 2}
    one = p["trajectory_distillation"]["sfd-v"] | {"num_steps": [3], "substeps": 3, "step_condition": "none"}
    one |= {"solver": "euler", "teacher_afs": True, "cached": False}
    p["second_stage"] = {"teacher_method": "sfd-v", "methods": {"sfd-one": one}}
    p["score_distillation"]["sfd-disback"] = p["score_distillation"]["disback"] | {"sigma_init": 3.107122}
    p["start"]["sfd-one"] = ["sfd-disback"]
    p["students"] |= {"sfd-one": {}, "sfd-disback": {}}
    p["metrics"] |= {"n_samples": 64, "n_curve": 64, "n_reference": 300, "n_pairwise": 50}
    p["mismatch"] = {"n_samples": 8, "fit_steps": 2}
    p["report"]["sample_columns"] = 4
    return p


def write_images(folder: Path, n_images: int = 400) -> None:
    """Grey 16x16 images in two classes: bars across and bars along, at random places and shades."""
    draw = np.random.default_rng(0)
    for i in range(n_images):
        pixels = np.zeros((16, 16), np.uint8)
        place, shade = draw.integers(2, 12), draw.integers(100, 256)
        pixels[place : place + 3] = shade
        path = folder / ("across" if i % 2 else "along") / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if i % 2 else pixels.T).save(path)


@dataclass(frozen=True)
class StageRun:
    """A stage of the tiny suite that has been run: its command's arguments, declared outputs, and the files that it wrote."""

    name: str
    arguments: list[str]
    outs: list[Path]
    written: set[Path]


@dataclass(frozen=True)
class TinySuite:
    folder: Path
    runs: dict[str, StageRun]

    def run(self, *arguments: str) -> None:
        """A command of the command line, in this process, in the suite's folder."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            backtrail(list(arguments), standalone_mode=False)
        finally:
            os.chdir(before)


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> TinySuite:
    """Every stage of dvc.yaml, run once."""
    folder = tmp_path_factory.mktemp("tiny")
    write_images(folder / "images")
    return run_every_stage(folder, tiny(self_contained()))


def run_every_stage(folder: Path, parameters: dict[str, Any]) -> TinySuite:
    """The real dvc.yaml with these parameters, each stage's command run once, in DVC's order."""
    (folder / "params.yaml").write_text(as_yaml(parameters), encoding="utf-8")
    lay_down(folder)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    from dvc.repo import Repo

    graph = Repo(str(folder)).index.graph
    built = TinySuite(folder, {})
    for stage in reversed(list(nx.topological_sort(graph))):
        before = files(folder)
        name = stage.addressing.split(":")[-1]  # DVC puts the path in front, seen from elsewhere
        arguments = [stage.cmd.split()[-1], *([] if name in ("code", "ledger") else ["--stage", name])]
        built.run(*arguments)
        built.runs[name] = StageRun(name, arguments, [Path(out.fs_path) for out in stage.outs], changed(before, files(folder)))
    return built


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file below a folder, with size and time, leaving out git's and DVC's own."""
    found = (path for path in folder.rglob("*") if not {".git", ".dvc"} & set(path.relative_to(folder).parts))
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found if path.is_file()}


def changed(before: dict[Path, tuple[int, int]], after: dict[Path, tuple[int, int]]) -> set[Path]:
    return {path for path, state in after.items() if before.get(path) != state}
