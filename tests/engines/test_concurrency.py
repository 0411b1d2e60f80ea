"""Eight stages at once in one tree, round after round, some of them killed: what DVC keeps of it, and what the workflow mends."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

import dvc_left_over
import dvc_plan

from .conftest import Project

N_STAGES = 8
PIPELINE = f"""\
stages:
  source:
    cmd: grep round params.yaml > source.txt
    params: [round]
    outs: [source.txt]
  part:
    matrix: {{number: {list(range(N_STAGES))}}}
    cmd: (cat source.txt; sleep 0.3; seq -f "part ${{item.number}} line %g" 20000) > part-${{item.number}}.txt
    deps: [source.txt]
    outs: ["part-${{item.number}}.txt"]
"""


@pytest.fixture
def parts(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A source, and eight stages that read it and write a third of a megabyte each."""
    (project.root / "dvc.yaml").write_text(PIPELINE)
    (project.root / "dvc.lock").unlink()
    monkeypatch.chdir(project.root)
    return project


def start(project: Project, number: int) -> subprocess.Popen:
    """One stage as a job runs it, at the head of its own process group, so that all of it can be killed."""
    command = [sys.executable, dvc_plan.DVC, f"part@{number}"]
    with (project.root / f"part-{number}.log").open("w") as log:
        return subprocess.Popen(command, env=project.environment(), stdout=log, stderr=log, start_new_session=True)


def expected(number: int, round_: int) -> bytes:
    return f"round: {round_}\n".encode() + b"".join(b"part %d line %d\n" % (number, line) for line in range(1, 20001))


def held(mode: str) -> set[int]:
    """The processes that DVC's file of path locks names as readers or writers."""
    entries = json.loads(dvc_left_over.PATH_LOCKS.read_text(encoding="utf-8")).get(mode, {}).values()
    return {info["pid"] for entry in entries for info in (entry if isinstance(entry, list) else [entry])}


@pytest.mark.parametrize("n_rounds", [2, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(5400)])])
def test_eight_at_once_with_kills(parts: Project, n_rounds: int) -> None:
    draw = random.Random(0)
    counts = {"killed": 0, "ended before the kill": 0, "failed beside a kill": 0, "stale entries named": 0}
    for round_ in range(n_rounds):
        Path("params.yaml").write_text(f"round: {round_}\n", encoding="utf-8")
        counts["stale entries named"] += parts.dvc("repro", "--single-item", "source").count("had been killed")
        jobs = {number: start(parts, number) for number in range(N_STAGES)}
        time.sleep(draw.uniform(0, 8))
        for number in draw.sample(range(N_STAGES), 2):
            counts["killed" if jobs[number].poll() is None else "ended before the kill"] += 1
            os.killpg(jobs[number].pid, signal.SIGKILL) if jobs[number].poll() is None else None
        left = {number for number, job in jobs.items() if job.wait(timeout=300) != 0}
        counts["failed beside a kill"] += sum(jobs[number].returncode > 0 for number in left)
        attempts = 0
        while left:
            attempts += 1
            assert attempts < 3, [Path(f"part-{number}.log").read_text(encoding="utf-8") for number in left]
            dvc_left_over.mend_path_locks()
            jobs = {number: start(parts, number) for number in left}
            left = {number for number, job in jobs.items() if job.wait(timeout=300) != 0}
            counts["stale entries named"] += sum(
                Path(f"part-{number}.log").read_text(encoding="utf-8").count("had been killed") for number in jobs
            )

        entries = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
        for number in range(N_STAGES):
            whole = expected(number, round_)
            assert Path(f"part-{number}.txt").read_bytes() == whole, f"round {round_}, part {number} is not whole"
            assert entries[f"part@{number}"]["outs"][0]["md5"] == hashlib.md5(whole).hexdigest(), f"round {round_}, part {number} is lost"
        assert held("write") == set() and not any(psutil.pid_exists(pid) for pid in held("read"))
    print(counts)
    Path("params.yaml").write_text("round: -1\n", encoding="utf-8")
    parts.dvc("repro", "--single-item", "source")  # writes what the killed ones read: their entries go
    assert held("read") == held("write") == set()
    cached = [path for path in Path(".dvc/cache/files/md5").glob("??/*") if path.is_file()]
    assert cached and all(
        hashlib.md5(path.read_bytes()).hexdigest() == path.parent.name + path.name.removesuffix(".dir") for path in cached
    )


def test_a_file_of_path_locks_that_was_half_written_is_removed_and_named(parts: Project, caplog: pytest.LogCaptureFixture) -> None:
    """DVC writes it in place, and fails on half of it, all commands at once, until somebody removes it."""
    Path("params.yaml").write_text("round: 0\n", encoding="utf-8")
    parts.dvc("repro", "--single-item", "source")
    dvc_left_over.PATH_LOCKS.write_text('{"write": {"/a/pa')
    assert "JSON structure is corrupted" in parts.dvc("repro", "--single-item", "part@0", code=None)
    dvc_left_over.mend_path_locks(seconds=0)
    assert "half written" in caplog.text and not dvc_left_over.PATH_LOCKS.exists()
    parts.dvc("repro", "--single-item", "part@0")
    dvc_left_over.mend_path_locks(seconds=0)
    assert dvc_left_over.PATH_LOCKS.exists()


def test_what_a_killed_job_reads_is_forgotten_and_what_another_machine_reads_is_not(parts: Project) -> None:
    """Nobody writes params.yaml: no stage that starts later would come upon the entry of a job that was killed."""
    Path("params.yaml").write_text("round: 0\n", encoding="utf-8")
    parts.dvc("repro", "--single-item", "source")
    parts.edit("sleep 0.3", "sleep 60", "dvc.yaml")
    parts.edit("    deps: [source.txt]\n", "    deps: [source.txt]\n    params: [round]\n", "dvc.yaml")
    job = start(parts, 0)
    deadline = time.monotonic() + 60
    while not Path("part-0.txt").exists():  # its command runs, and DVC has written its entries
        assert job.poll() is None and time.monotonic() < deadline, Path("part-0.log").read_text(encoding="utf-8")
        time.sleep(0.1)
    locks = json.loads(dvc_left_over.PATH_LOCKS.read_text(encoding="utf-8"))
    elsewhere = {"pid": 2**22 + 1, "cmd": "another-node: dvc_stage.py part@1"}
    locks["read"][str(parts.root / "params.yaml")].append(elsewhere)
    dvc_left_over.PATH_LOCKS.write_text(json.dumps(locks), encoding="utf-8")
    dvc_plan.ask_dvc()
    assert held("read") == {job.pid, elsewhere["pid"]}
    os.killpg(job.pid, signal.SIGKILL)
    job.wait(timeout=60)
    dvc_plan.ask_dvc()
    assert held("read") == {elsewhere["pid"]} and held("write") == {job.pid}  # a writer is found by whoever writes next


@pytest.mark.slow
def test_a_stage_whose_entry_was_removed_fails_and_is_restored_without_running_again(parts: Project) -> None:
    Path("params.yaml").write_text("round: 0\n", encoding="utf-8")
    parts.dvc("repro", "--single-item", "source")
    parts.edit("sleep 0.3", "echo run >> runs.txt; sleep 6", "dvc.yaml")
    job = start(parts, 0)
    while not Path("runs.txt").exists():
        time.sleep(0.1)
    dvc_left_over.PATH_LOCKS.write_text("")
    dvc_left_over.mend_path_locks(seconds=0)
    assert job.wait(timeout=60) != 0
    parts.dvc("repro", "--single-item", "part@0")
    assert Path("runs.txt").read_text(encoding="utf-8") == "run\n"
    assert Path("part-0.txt").read_bytes() == expected(0, 0)
