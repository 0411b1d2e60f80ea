"""`snakemake --profile slurm` on a real Slurm: what the scheduler does to jobs, and what comes of them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.conftest import ClusterProject
from cluster.slurm import Slurm, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(1800)]
TRAINED = {"train@told": "told", "train@requeued": "requeued", "train@preempted": "preempted", "sliced": "sliced"}


@dataclass(frozen=True)
class Played:
    """A run that is over: what Snakemake printed, the attempts that the stages noted, the jobs as Slurm has them."""

    project: ClusterProject
    slurm: Slurm
    code: int
    printed: str
    noted: list[str]

    def job_log(self, stage: str) -> str:
        """What the first job of a stage printed, for one that failed: Slurm's own messages stand there."""
        first = self.slurm.jobs(stage)[0]["JobId"]
        return (self.project.root / f".snakemake/slurm_logs/rule_{stage}/{first}.log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def played(toy: ClusterProject, slurm: Slurm) -> Iterator[Played]:
    """The toy, run once, while one job gets a signal, one is requeued, one preempted, and two run into their limits."""
    runs = Path(toy.environment["TOY_RUNS"])

    def is_training(stage: str) -> bool:
        return runs.exists() and f"{stage} step 1\n" in runs.read_text(encoding="utf-8")

    with toy.run() as snakemake:
        wait_for(lambda: is_training("sliced"), 600, "sliced")
        slurm.run("scontrol", "update", f"JobId={slurm.jobs('sliced')[-1]['JobId']}", "TimeLimit=1")
        wait_for(lambda: is_training("train@told"), 600, "train@told")
        slurm.run("scancel", "--signal=USR1", slurm.jobs("train@told")[-1]["JobId"])
        wait_for(lambda: slurm.jobs("train@told")[0]["JobState"] == "FAILED", 60, "train@told to save its state")
        wait_for(lambda: is_training("train@requeued"), 600, "train@requeued")
        slurm.run("scontrol", "requeue", slurm.jobs("train@requeued")[-1]["JobId"])
        wait_for(lambda: is_training("train@preempted") and slurm.state("launch") == "COMPLETED", 600, "train@preempted")
        slurm.run("sbatch", "--partition=urgent", "--gpus=5", "--mem=50", "--output=/dev/null", "--comment=rule_urgent", "--wrap=sleep 1")
        code = snakemake.wait(timeout=500)
    print(slurm.timeline())
    yield Played(toy, slurm, code, toy.log.read_text(encoding="utf-8"), runs.read_text(encoding="utf-8").splitlines())


def test_stages_run_at_once_and_one_that_asks_for_two_gpus_starts_once(played: Played) -> None:
    """Each part@ waits for the two others: one after the other, they would never end."""
    assert {played.slurm.state(f"part@{number}") for number in range(3)} == {"COMPLETED"}
    assert played.noted.count("launch") == 1
    devices = (played.project.root / "results/launch.txt").read_text(encoding="utf-8").strip().split(",")
    assert len(devices) == 2 and played.slurm.jobs("launch")[-1]["TresPerJob"] == "gres:gpu:2"


def test_every_job_ended_as_meant(played: Played) -> None:
    """Told to stop by a signal: a failed job, submitted again. Requeued or preempted: the same job, started again by Slurm."""
    jobs = {stage: [(job["JobState"], int(job["Restarts"]) > 0) for job in played.slurm.jobs(stage)] for stage in TRAINED}
    assert jobs["train@told"][0] == ("FAILED", False) and jobs["train@told"][-1][0] == "COMPLETED"
    assert jobs["train@requeued"] == [("COMPLETED", True)]
    assert played.slurm.state("urgent") == "COMPLETED" and jobs["train@preempted"] == [("COMPLETED", True)]
    assert jobs["sliced"][0] == ("TIMEOUT", False) and jobs["sliced"][-1] == ("COMPLETED", False)


@pytest.mark.parametrize("stage", TRAINED)
def test_an_interrupted_stage_goes_on_from_its_state_and_ends_as_if_undisturbed(played: Played, tmp_path: Path, stage: str) -> None:
    steps = [int(line.split()[-1]) for line in played.noted if line.startswith(f"{stage} step")]
    assert steps[:2] == [0, 1] and len(steps) > 2 and all(step > 1 for step in steps[2:])
    quiet = {k: v for k, v in played.project.environment.items() if k != "TOY_RUNS"}
    tool = played.project.root / "tools/train.py"
    (tmp_path / "params.yaml").write_bytes((played.project.root / "params.yaml").read_bytes())
    subprocess.run([sys.executable, tool, "alone", "alone.txt"], cwd=tmp_path, env=quiet, check=True, capture_output=True)
    assert (played.project.root / f"results/{TRAINED[stage]}.txt").read_text(encoding="utf-8") == (tmp_path / "alone.txt").read_text(
        encoding="utf-8"
    )
    assert not (played.project.root / ".scratch" / stage).exists()


def test_limits_are_named_in_one_sentence(played: Played) -> None:
    """Out of time: by Slurm's word for it, and the stage says that it saved. Out of memory: how much was used of how much."""
    assert "SLURM status is: 'TIMEOUT'" in played.printed
    assert "stopped by SIGTERM after step" in played.printed and "the next run continues from there" in played.printed
    assert "exceeded memory limit" in played.job_log("hungry") and "exceeded memory limit" in played.printed
    assert played.code == 1 and not (played.project.root / "results/hungry.txt").exists()


def test_logs_are_where_the_readme_says(played: Played) -> None:
    """A log is the last attempt's: one that was preempted after DVC had written its outputs has nothing left to run."""
    for stage in (*TRAINED, "launch", "part@0", "data"):
        log = (played.project.root / f"logs/{stage}.log").read_text(encoding="utf-8")
        assert f"Running stage '{stage}'" in log or f"Stage '{stage}' didn't change" in log


def locked(project: ClusterProject) -> set[str]:
    """The files that DVC holds as being written."""
    lock = json.loads((project.root / ".dvc/tmp/rwlock").read_text(encoding="utf-8"))
    return {Path(path).name for path in lock.get("write", {})}


def test_a_stage_that_was_stopped_leaves_no_lock(played: Played) -> None:
    """The stage alone heeds the signal, so DVC ends by itself. Slurm kills all of the job that ran out of memory, DVC first or last."""
    assert locked(played.project) <= {"hungry.txt"}


def test_the_next_run_does_what_is_left_and_both_engines_are_done(played: Played) -> None:
    left = locked(played.project)
    parameters = played.project.root / "params.yaml"
    parameters.write_text(parameters.read_text(encoding="utf-8").replace("megabytes: 1200", "megabytes: 1"))
    with played.project.run() as snakemake:
        assert snakemake.wait(timeout=240) == 0, played.project.log.read_text(encoding="utf-8")
    assert played.slurm.jobs()[-1]["Comment"] == "rule_hungry" and len(played.slurm.jobs("hungry")) == 2
    log = (played.project.root / "logs/hungry.log").read_text(encoding="utf-8")
    assert ("had been killed. Auto removed it from the lock file" in log) == bool(left)
    assert not locked(played.project)
    assert "up to date" in played.project.call("dvc", "status")
    assert "Nothing to be done" in played.project.call("snakemake", "--profile", "slurm", "-n")
