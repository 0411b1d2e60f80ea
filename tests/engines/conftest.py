"""A toy pipeline of 13 cheap stages in a git repository of its own, with both engines to run it."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import warm

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).parent / "toy"
IGNORED = shutil.ignore_patterns("__pycache__")
NAMES = {
    *("data", "classifier", "reference", "teacher", "path", "metrics@disback", "metrics@sfd-v", "figure", "table"),
    *(f"student@{method}-{seed}" for method in ("disback", "sfd-v") for seed in (0, 1)),
}
EDGES = {
    *(("classifier", "data"), ("reference", "data"), ("reference", "classifier"), ("teacher", "data"), ("path", "teacher")),
    *((f"student@{method}-{seed}", parent) for method in ("disback", "sfd-v") for seed in (0, 1) for parent in ("teacher", "path")),
    *((f"metrics@{method}", f"student@{method}-{seed}") for method in ("disback", "sfd-v") for seed in (0, 1)),
    *((f"metrics@{method}", "reference") for method in ("disback", "sfd-v")),
    *((name, f"metrics@{method}") for name in ("figure", "table") for method in ("disback", "sfd-v")),
}


@dataclass
class Project:
    """A working copy of the toy; `runs` is where its stages note each execution, outside of the tree."""

    root: Path
    env: dict[str, str] = field(repr=False)

    @property
    def runs(self) -> Path:
        return self.root.with_suffix(".runs")

    def environment(self, **toy: str) -> dict[str, str]:
        return {**self.env, "TOY_RUNS": str(self.runs), **{f"TOY_{key}": value for key, value in toy.items()}}

    def call(self, *command: str, code: int | None = 0, folder: str = ".", **toy: str) -> str:
        """What a command prints that must end with this code; None: with any failure, for the engines, whose codes tell no more."""
        done = warm.run(command, self.root / folder, self.environment(**toy), timeout=200)
        ended = f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode if code is None else done.returncode == code, ended
        return done.stdout + done.stderr

    def git(self, *args: str) -> str:
        return self.call("git", *args)

    def dvc(self, *args: str, **options) -> str:
        return self.call(sys.executable, "-m", "dvc", *args, **options)

    def snakemake(self, *args: str, **options) -> str:
        return self.call(sys.executable, "-m", "snakemake", *args, **options)

    def run_snakemake(self, *args: str, **options) -> str:
        """Run the profile `local` with room for four jobs, whatever the machine."""
        return self.snakemake("--profile", "local", "--cores", "4", "--resources", "gpu=8", "mem_mb=8000", *args, **options)

    def start_snakemake(self, **toy: str) -> subprocess.Popen:
        """Start a run as the head of its own process group, so that a test can kill all of it."""
        command = [sys.executable, "-m", "snakemake", "--profile", "local"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=self.root, env=self.environment(**toy), start_new_session=True, **quiet)

    def planned(self, *args: str, **options) -> set[str]:
        """Return the stages that a dry run of Snakemake names."""
        printed = self.snakemake("--profile", "local", "-n", *args, **options)
        names = set(re.findall(r"^Job \d+: (\S+): ", printed, flags=re.MULTILINE))
        assert names or "Nothing to be done" in printed, printed
        return names

    def changed(self) -> set[str]:
        """Return the stages that `dvc status` names."""
        return {line[:-1] for line in self.dvc("status").splitlines() if line.endswith(":") and not line.startswith("\t")}

    def executed(self) -> list[str]:
        """Return the stages whose commands ran since the last call, in alphabetical order."""
        names = sorted(self.runs.read_text(encoding="utf-8").split()) if self.runs.exists() else []
        self.runs.unlink(missing_ok=True)
        return names

    def edit(self, old: str, new: str, path: str = "params.yaml") -> None:
        text = (self.root / path).read_text(encoding="utf-8")
        assert old in text
        (self.root / path).write_text(text.replace(old, new))

    def assert_settled(self) -> None:
        """Neither engine has anything to do: Snakemake plans nothing, DVC's status is clean and `dvc repro` runs nothing."""
        assert self.planned() == set()
        assert self.changed() == set()
        assert self.dvc("repro").endswith("Data and pipelines are up to date.\n")
        assert self.executed() == []


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Project:
    """The toy, run once by `dvc repro` and committed, with its cache and a local remote."""
    home = tmp_path_factory.mktemp("home")
    identity = {f"GIT_{who}_{what}": "toy@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    private = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "DVC_SITE_CACHE_DIR": str(home / "dvc"), "DVC_NO_ANALYTICS": "1"}
    dropped = ("SNAKEMAKE_PROFILE", "TOY_", "XDG_CONFIG", "PYTHONPATH")
    project = Project(home / "base", {k: v for k, v in os.environ.items() if not k.startswith(dropped)} | identity | private)
    shutil.copytree(TOY, project.root, ignore=IGNORED)
    (project.root / "pipeline.yaml").rename(project.root / "dvc.yaml")
    shutil.copytree(ROOT / "workflow", project.root / "workflow", ignore=IGNORED)
    for name in ("local", "slurm"):
        shutil.copy(ROOT / name, project.root / name, follow_symlinks=False)
    shutil.copytree(ROOT / ".dvc", project.root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    shutil.copy(ROOT / ".dvcignore", project.root)
    (project.root / ".gitignore").write_text(".snakemake/\nlogs/\n__pycache__/\n")
    project.git("init", "-q", "-b", "main")
    project.dvc("remote", "add", "--default", "store", str(home / "store"))
    project.dvc("repro")
    assert project.executed() == sorted(NAMES)
    project.git("add", "-A")
    project.git("commit", "-q", "-m", "toy")
    return project


@pytest.fixture
def project(base, tmp_path) -> Project:
    """A copy of `base`, cache included."""
    copy = Project(tmp_path / "toy", base.env)
    shutil.copytree(base.root, copy.root, symlinks=True)
    return copy


@pytest.fixture
def untouched(base, tmp_path) -> Project:
    """A clone of `base` without cache, remote or lock file: nothing has run in it."""
    clone = Project(tmp_path / "clone", base.env)
    base.git("clone", "-q", str(base.root), str(clone.root))
    (clone.root / "dvc.lock").unlink()
    for name in ("figure.svg", "table.csv", "metrics/disback.json", "metrics/sfd-v.json"):
        (clone.root / "results" / name).unlink()
    return clone
