"""A Slurm of one node on the loopback address: own configuration, keys, processes and folder, nothing shared with another Slurm."""

import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct")
GPUS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")  # Slurm asks of a device file only that it exists

# What the controller's log says of a job, and the word for it.
EVENTS = {
    "submit_batch_job: JobId": "submitted",
    "(Allocate|Started) JobId": "started",
    "preempted JobId": "preempted",
    "Requeuing JobId": "requeued",
    "Time limit exhausted": "timeout",
    "_job_complete: .* done": "ended",
}

# No cgroups, no accounting database, no e-mail: what any container allows. Two partitions, the second takes from the first.
CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/events.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=1,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=3600
SlurmdTimeout=10
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=16000 Gres=gpu:{n_gpus}
PartitionName=day Nodes=ALL Default=YES PriorityTier=1 MaxTime=60
PartitionName=urgent Nodes=ALL PriorityTier=9 PreemptMode=OFF MaxTime=60
"""


def missing() -> str | None:
    """Return why no Slurm can be started here, in one sentence; None if it can."""
    lacking = [name for name in (*DAEMONS, *COMMANDS, "setpriv") if shutil.which(name, path=search_path()) is None]
    return f"{', '.join(lacking)} not found: run tests/cluster/install.sh as root on Debian or Ubuntu" if lacking else None


def search_path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin"  # not on the PATH of an ordinary user


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)


class Slurm:
    """The running cluster; `bin` holds its commands, which find it whatever the environment says."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short, for a socket's path
        self.bin = self.folder / "bin"
        self.daemons: dict[str, subprocess.Popen] = {}
        self._configure()
        try:
            kinds = ("socket", "key-file", "log-file", "pid-file", "seed-file")
            self._start("munged", "--foreground", "--force", *(f"--{kind}={self.folder}/munge.{kind.split('-')[0]}" for kind in kinds))
            wait_for((self.folder / "munge.socket").exists, 20, "munged")
            self._start("slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")
            self.start_node()
            wait_for(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T", check=False), 40, "an idle node")
        except BaseException:
            self.stop()
            raise

    def _configure(self) -> None:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            ports = {"controller_port": one.getsockname()[1], "node_port": other.getsockname()[1]}
        host = socket.gethostname().split(".")[0]
        values = {"folder": self.folder, "host": host, "user": getpass.getuser(), "n_gpus": len(GPUS), **ports}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values), encoding="utf-8")
        (self.folder / "gres.conf").write_text("".join(f"Name=gpu File={path}\n" for path in GPUS), encoding="utf-8")
        self.folder.chmod(0o755)
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        for name in COMMANDS:
            # A step of the executor plugin drops every SLURM_* variable, so SLURM_CONF cannot be left to the environment.
            (self.bin / name).write_text(
                f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which(name)} "$@"\n', encoding="utf-8"
            )
            (self.bin / name).chmod(0o755)

    def _start(self, name: str, *arguments: str) -> None:
        # The kernel ends a daemon whose tests were killed.
        command = ["setpriv", "--pdeathsig", "TERM", shutil.which(name, path=search_path()) or name, *arguments]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def start_node(self) -> None:
        self._start("slurmd", "-D", "-f", f"{self.folder}/slurm.conf")

    def run(self, command: str, *arguments: str, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it printed."""
        done = subprocess.run([str(self.bin / command), *arguments], capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, f"{command} {arguments}: {done.stderr}"
        return done.stdout

    def jobs(self, stage: str | None = None) -> list[dict[str, str]]:
        """Return the jobs, of one stage if it is named, as Slurm has them, the oldest first: JobId, JobState, Restarts, StartTime, ..."""
        lines = self.run("scontrol", "show", "job", "--oneliner").splitlines()
        found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if line.startswith("JobId=")]
        return [job for job in found if stage is None or job.get("Comment") == f"rule_{stage}"]

    def state(self, stage: str) -> str:
        """Return the state of a stage's newest job; empty before it has one."""
        return (self.jobs(stage) or [{"JobState": ""}])[-1]["JobState"]

    def timeline(self) -> str:
        """Return what happened to the jobs, a line each: time, event, job, stage."""
        stages = {job["JobId"]: job.get("Comment", "").removeprefix("rule_") for job in self.jobs()}
        events = re.findall(
            r"^\[\S+T(\S+)\] (.*?JobId=(\d+).*)$", (self.folder / "events.log").read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        told = [(time, word, job) for time, line, job in events for pattern, word in EVENTS.items() if re.search(pattern, line)]
        return "\n".join(f"{time:<12} {word:<9} {job:>3} {stages.get(job, '')}" for time, word, job in told)

    def stop(self) -> None:
        """End all jobs, then the daemons, and remove the folder."""
        if {"slurmctld", "slurmd"} <= set(self.daemons) and all(daemon.poll() is None for daemon in self.daemons.values()):
            self.run("scancel", "--user", getpass.getuser(), check=False)
            wait_for(lambda: not self.run("squeue", "--noheader", check=False).strip(), 60, "the last jobs to end")
        for name in reversed(DAEMONS):
            if daemon := self.daemons.get(name):
                daemon.terminate()
                try:
                    daemon.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
