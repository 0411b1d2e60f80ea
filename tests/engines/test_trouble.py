"""Stages that are deleted, fail, are killed or run at once, and what Snakemake and DVC make of it."""

import os
import shutil
import signal
import subprocess
import sys
import time

from .conftest import NAMES, Project

PATH_AND_AFTER = NAMES - {"data", "classifier", "reference", "teacher"}
RERUN = sorted(PATH_AND_AFTER - {"figure"})  # the figure needs the metrics' JSON alone, which comes out as it was


def wait_for(condition, seconds: float = 60) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def has_run(project: Project, name: str) -> bool:
    return project.runs.exists() and name in project.runs.read_text(encoding="utf-8").split()


def test_a_deleted_output_and_a_parameter_turned_back_are_restored(project):
    project.edit("sfd-v_lr: 1", "sfd-v_lr: 2")
    project.dvc("repro")
    assert len(project.executed()) == 4
    project.edit("sfd-v_lr: 2", "sfd-v_lr: 1")
    (project.root / "results/reference.txt").unlink()
    (project.root / "results/metrics/disback.json").unlink()  # in git and not in DVC's cache, but in its run cache
    project.run_snakemake()
    assert project.executed() == []
    assert project.changed() == set()
    assert project.git("status", "--short") == ""  # dvc.lock, metrics, figures: all as they were committed


def test_failing_stages_count_as_nothing_and_are_taken_up(project):
    project.edit("disback_lr: 1", "disback_lr: 2")
    project.edit("n_images: 3", "n_images: 4")
    printed = project.run_snakemake(code=1, FAIL="classifier", KILL="path")
    assert "failed to reproduce 'classifier'" in printed and "failed to reproduce 'path'" in printed  # the logs are shown
    assert project.executed() == ["classifier", "data", "path", "teacher"]
    left = NAMES - {"data", "teacher"}
    assert project.planned() == left
    assert {"classifier", "path"} <= project.changed()
    project.run_snakemake()
    assert project.executed() == sorted(left)
    project.assert_settled()


def test_a_killed_run_is_taken_up(project):
    project.edit("disback_lr: 1", "disback_lr: 2")
    run = project.start_snakemake(HANG="path")
    output = project.root / "results/path/node-0.txt"
    # A stage notes its run first and writes half of its output next: the kill must not come between the two.
    wait_for(lambda: has_run(project, "path") and output.exists() and output.read_text(encoding="utf-8") == "half\n")
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert project.executed() == ["path"]
    assert output.read_text(encoding="utf-8") == "half\n"

    assert project.planned() == PATH_AND_AFTER
    # Snakemake's own lock stays behind a killed run, and names its cure. DVC's do not: the kernel frees them, or DVC sees a dead process.
    assert "--unlock" in project.snakemake("--profile", "local", code=1)
    project.snakemake("--unlock")
    project.run_snakemake()
    assert project.executed() == RERUN
    assert project.changed() == set()


def test_eight_at_once(project):
    project.edit("seeds: [0, 1]", "seeds: [0, 1, 2, 3]")
    project.edit("# The code", "# New code", "tools/student.py")
    students = [f"student@{method}-{seed}" for method in ("disback", "sfd-v") for seed in range(4)]
    # Every student waits for the seven others; one that cannot start ends the test by its time limit.
    project.run_snakemake("--cores", "8", MEET="8")
    assert set(students) <= set(project.executed())
    lock = (project.root / "dvc.lock").read_text(encoding="utf-8")
    assert all(f"  {name}:\n" in lock for name in NAMES | set(students))
    project.assert_settled()


def test_looking_at_a_run_does_not_disturb_it(project):
    project.edit("disback_lr: 1", "disback_lr: 2")
    run = project.start_snakemake(HANG="path")
    wait_for(lambda: has_run(project, "path"))
    assert project.planned() == PATH_AND_AFTER
    assert "Directory cannot be locked" in project.snakemake("--profile", "local", code=1)
    project.runs.with_name(project.runs.name + ".go").touch()
    assert run.wait(timeout=120) == 0
    assert project.executed() == RERUN
    assert project.changed() == set()


def test_a_forced_job_says_that_dvc_computes_nothing_anew(project):
    printed = project.run_snakemake("--forcerun", "teacher")
    assert "`dvc repro --force --single-item STAGE` computes anew" in printed
    assert project.executed() == []
    assert "computes anew" not in project.run_snakemake()


def test_sources_without_a_history_are_one_sentence(project, tmp_path):
    shutil.copytree(project.root, tmp_path / "archive", ignore=shutil.ignore_patterns(".git", ".snakemake"))
    command = [sys.executable, "-m", "snakemake", "--profile", "local", "-n"]
    done = subprocess.run(command, cwd=tmp_path / "archive", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 1
    assert "There is no git history here, as in an archive of the sources, and DVC needs one: `git init`" in done.stdout
