"""Stages that are deleted, fail, are killed or run at once, and what Snakemake and DVC make of it."""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from .conftest import NAMES, ROOT, Project

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


@pytest.mark.slow
def test_failing_stages_count_as_nothing_and_are_taken_up(project):
    project.edit("disback_lr: 1", "disback_lr: 2")
    project.edit("n_images: 3", "n_images: 4")
    printed = project.run_snakemake(code=None, FAIL="classifier", KILL="path")
    assert "failed to reproduce 'classifier'" in printed and "failed to reproduce 'path'" in printed  # the logs are shown
    assert project.executed() == ["classifier", "data", "path", "teacher"]
    left = NAMES - {"data", "teacher"}
    assert project.planned() == left
    assert {"classifier", "path"} <= project.changed()
    project.run_snakemake()
    assert project.executed() == sorted(left)
    project.assert_settled()


@pytest.mark.slow
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
    assert "--unlock" in project.snakemake("--profile", "local", code=None)
    project.snakemake("--unlock")
    project.run_snakemake()
    assert project.executed() == RERUN
    assert project.changed() == set()


@pytest.mark.slow  # twice, with kills, in test_concurrency.py
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


@pytest.mark.slow
def test_looking_at_a_run_does_not_disturb_it(project):
    project.edit("disback_lr: 1", "disback_lr: 2")
    run = project.start_snakemake(HANG="path")
    wait_for(lambda: has_run(project, "path"))
    assert project.planned() == PATH_AND_AFTER
    assert "Directory cannot be locked" in project.snakemake("--profile", "local", code=None)
    project.runs.with_name(project.runs.name + ".go").touch()
    assert run.wait(timeout=300) == 0
    assert project.executed() == RERUN
    assert project.changed() == set()


@pytest.mark.slow
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


def test_a_file_that_is_asked_for_is_found(project):
    printed = project.snakemake("--profile", "local", "-n", "results/teacher.txt", code=None)
    assert "results/teacher.txt is made by teacher: ask for the stage, `snakemake ... teacher`" in printed
    printed = project.snakemake("--profile", "local", "-n", "--until", "path", "--", "results/students/sfd-v", code=None)
    assert "results/students/sfd-v is made by student@sfd-v-0, student@sfd-v-1: ask for the stage" in printed
    assert "Traceback" not in printed and " in load_plan" not in printed and "Snakefile" not in printed.partition("is made by")[2]
    assert "Nothing to be done" in project.snakemake("--profile", "local", "-n", "teacher")


@pytest.mark.slow
def test_a_run_ends_with_the_path_of_its_page(project):
    """Once, by the main process, and only after a run that has brought the page up to date."""
    command = "mkdir -p reports && cp results/table.csv reports/index.html"
    page = f"  page: {{cmd: {command}, deps: [results/table.csv], outs: [reports/index.html]}}\n"
    project.edit("stages:\n", f"stages:\n{page}", "dvc.yaml")
    line = f"The report: {project.root / 'reports/index.html'}\n"
    assert line not in project.snakemake("--profile", "local", "-n") + project.run_snakemake("--", "teacher", "data")
    assert project.run_snakemake().count(line) == 1
    project.edit("teacher_lr: 1", "teacher_lr: 2")
    assert line not in project.run_snakemake("--", "teacher")
    assert line not in project.run_snakemake("--no-hooks")


@pytest.mark.slow
def test_a_run_says_where_it_is(project):
    """In a log a line for each stage that ends; in a terminal a line at the bottom."""
    project.edit("teacher_lr: 1", "teacher_lr: 2")
    stale = len(project.planned())
    lines = re.findall(r"^\d+ of 13 stages done.*$", project.run_snakemake("--", "teacher"), flags=re.MULTILINE)
    assert lines == [f"{14 - stale} of 13 stages done"] and project.executed() == ["teacher"]
    project.edit("teacher_lr: 2", "teacher_lr: 3")
    inside, outside = os.openpty()
    fcntl.ioctl(outside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    command = [sys.executable, "-m", "snakemake", "--profile", "local", "--cores", "4", "--resources", "gpu=8", "mem_mb=8000", "--"]
    run = subprocess.Popen([*command, "teacher"], cwd=project.root, env={**project.env, "TERM": "xterm"}, stdout=outside, stderr=outside)
    os.close(outside)
    seen = b""
    with contextlib.suppress(OSError):  # as Linux says that nobody writes any more
        while part := os.read(inside, 65536):
            seen += part
    assert run.wait() == 0
    drawn = re.findall(r"\r\x1b\[K(\d+ of 13 stages done[^\r\n]*)", seen.decode())
    assert any(f"{13 - stale} of 13 stages done; running: teacher (" in line for line in drawn) and max(map(len, drawn)) < 60


@pytest.mark.slow
def test_a_home_that_cannot_be_written_to_is_done_without(project, tmp_path):
    """By the profile and by `make`: Snakemake would end in a traceback before it reads our Snakefile."""
    command, homeless = [sys.executable, "-m", "snakemake", "--profile", "local", "-n"], {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": ""}
    done = subprocess.run(command, cwd=project.root, env={**project.env, **homeless}, capture_output=True, text=True)
    said = f"the home folder /proc/nowhere cannot be written to: caches go to {project.root}/.scratch/cache\n"
    assert done.returncode == 0 and done.stderr.count(said) == 1 and (project.root / ".scratch/cache/snakemake").is_dir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    plain = {name: of for name, of in os.environ.items() if not name.startswith("MAKE")}  # the tests' own make is no part of this
    environment = plain | homeless
    printed = subprocess.run(["make", "help"], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert printed.startswith(f"the home folder /proc/nowhere cannot be written to: caches go to {tmp_path}/.scratch/cache\n")
    assert "caches" not in subprocess.run(["make", "help"], cwd=tmp_path, env=plain, check=True, capture_output=True, text=True).stdout


def test_make_works_in_a_folder_whose_name_has_a_space(tmp_path) -> None:
    """With programs of the environment that say how they were called."""
    folder = tmp_path / "with a space"
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("requirements.lock", "requirements-uv.lock", "pyproject.toml", ".venv/.complete"):
        (folder / name).touch()
    for name in ("ruff", "snakefmt", "python", "snakemake", "backtrail"):
        program = folder / ".venv/bin" / name
        program.write_text(f'#!/bin/sh\necho "called: {name} $*"\n', encoding="utf-8")
        program.chmod(0o755)
    plain = {name: of for name, of in os.environ.items() if not name.startswith("MAKE")}
    for target, called in (("test", "python -m pytest"), ("lint", "snakefmt --check workflow"), ("repro", "snakemake --profile local")):
        done = subprocess.run(["make", target], cwd=folder, env=plain, capture_output=True, text=True)
        assert done.returncode == 0 and f"called: {called}" in done.stdout, done.stdout + done.stderr
