"""A cluster, and projects to run on it by `snakemake --profile slurm`."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import warm
from cluster.slurm import Slurm, missing

ROOT = Path(__file__).parents[2]
IGNORED = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    if reason := missing():
        pytest.skip(reason)
    cluster = Slurm()
    yield cluster
    cluster.stop()


@dataclass
class ClusterProject:
    """A project of its own, and the environment of a user of the cluster."""

    root: Path
    environment: dict[str, str]

    @contextmanager
    def run(self, *arguments: str) -> Iterator[subprocess.Popen]:
        """`snakemake --profile slurm`, killed at the end if it still runs; its output goes to `log`."""
        command = [sys.executable, "-m", "snakemake", "--profile", "slurm", *arguments]
        with self.log.open("w") as log:
            process = subprocess.Popen(command, cwd=self.root, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @property
    def log(self) -> Path:
        return self.root.with_suffix(".log")

    def call(self, *command: str) -> str:
        done = warm.run([sys.executable, "-m", *command], self.root, self.environment, timeout=400)
        assert done.returncode == 0, f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


def make_project(root: Path, slurm: Slurm) -> ClusterProject:
    """An empty project with the workflow, the profiles and DVC's settings of this repository."""
    home = root.with_suffix(".home")
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SNAKEMAKE_", "SLURM_", "TOY_", "XDG_CONFIG", "COV_", "PYTEST_"))}
    private = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "DVC_SITE_CACHE_DIR": str(home / "dvc"), "DVC_NO_ANALYTICS": "1"}
    paths = {"PATH": f"{slurm.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    project = ClusterProject(root, {**kept, **private, **paths, "OMP_NUM_THREADS": "1"})
    root.mkdir()
    shutil.copytree(ROOT / "workflow", root / "workflow", ignore=IGNORED)
    for name in ("local", "slurm"):
        shutil.copy(ROOT / name, root / name, follow_symlinks=False)
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    shutil.copy(ROOT / ".dvcignore", root)
    (root / ".gitignore").write_text(".snakemake/\n.scratch/\nlogs/\n__pycache__/\n", encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", str(root)], check=True)
    return project


@pytest.fixture(scope="session")
def toy(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> ClusterProject:
    """The stages of `toy`, none of which has run."""
    root = tmp_path_factory.mktemp("cluster") / "toy"
    project = make_project(root, slurm)
    shutil.copytree(Path(__file__).parent / "toy", root, ignore=IGNORED, dirs_exist_ok=True)
    (root / "pipeline.yaml").rename(root / "dvc.yaml")
    project.environment["TOY_RUNS"] = str(root.with_suffix(".runs"))
    return project
