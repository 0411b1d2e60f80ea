"""A pipeline of three stages, killed, stopped, starved of disk or run twice at once, at moments that are DVC's own: nothing is lost."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dvc_left_over
import dvc_plan
from sampled import slow_after

from .conftest import ROOT, Project

PIPELINE = """\
stages:
  train:
    cmd: sh step.sh train && grep n params.yaml > out/a.txt && seq 1 2000 >> out/a.txt && seq 1 9 > out/b.json
    params: [n]
    outs: [out/a.txt]
    metrics: [out/b.json: {cache: false}]
  measure:
    cmd: sh step.sh measure && cat out/a.txt out/b.json > measured.txt
    deps: [out]
    outs: [measured.txt]
  report:
    cmd: sh step.sh report && cat measured.txt > report.txt
    deps: [measured.txt]
    outs: [report.txt]
"""
STEP = 'echo $1 >> "$TOY_RUNS"; mkdir -p out; while [ "$TOY_HANG" = "$1" ] && [ ! -e "$TOY_RUNS.go" ]; do sleep 0.1; done\n'
MOMENTS = {  # of DVC, after a stage's command has ended -> what runs again then
    "dvc.stage:Stage.save": ["train"],  # before it hashes the outputs
    "dvc.stage:Stage.commit": ["train"],  # before the first copy into the cache
    "dvc.output:Output.commit": ["train"],
    "dvc.stage.cache:StageCache.save": ["train"],  # before the run cache knows them
    "dvc.dvcfile:Lockfile.dump_stages": [],  # before dvc.lock names them
}
HALF = "dvc.utils.serialize._yaml:_dump"  # in the middle of writing dvc.lock


def make(folder: Path) -> Project:
    """The project, of which nothing has run."""
    folder.mkdir(exist_ok=True)
    for name in (".dvc/config", ".dvcignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    for name, text in (("dvc.yaml", PIPELINE), ("step.sh", STEP), ("params.yaml", "n: 1\n"), (".gitignore", "/filler\n")):
        (folder / name).write_text(text, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TOY_", "DVC_", "PYTHONPATH"))}
    project = Project(folder, environment | {"DVC_SITE_CACHE_DIR": str(folder.parent / "site"), "DVC_NO_ANALYTICS": "1"})
    project.git("init", "-q")
    return project


@pytest.fixture
def tiny(tmp_path: Path) -> Project:
    return make(tmp_path / "tiny")


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What dvc.lock holds after a run that nothing touched."""
    project = make(tmp_path_factory.mktemp("untouched") / "tiny")
    project.dvc("repro")
    return (project.root / "dvc.lock").read_text(encoding="utf-8")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    os.chdir(ROOT)
    subprocess.run(["umount", str(folder)], check=True)


def start(project: Project, *arguments: str, **toy: str) -> subprocess.Popen:
    """DVC as the head of its own process group; it heeds SIGHUP, whether or not the tests were started to ignore it (`nohup`)."""
    command = ["env", "--default-signal=HUP", sys.executable, "-m", "dvc", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=project.root, env=project.environment(**toy), start_new_session=True, **streams)


def wait_for(project: Project, name: str) -> None:
    """Until a stage has begun."""
    end = time.monotonic() + 60
    while not project.runs.exists() or name not in project.runs.read_text(encoding="utf-8").split():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def broken(project: Project, moment: str, how: str) -> str:
    """What a run prints to which it happens at that moment."""
    script = str(Path(__file__).with_name("break_dvc.py"))
    return project.call(sys.executable, script, moment, how, str(project.root), "repro", code=None)


def check_cache(folder: Path) -> None:
    """Every file holds what its name says; what DVC had begun to copy is named .tmp and never read."""
    files = [path for path in (folder / "files/md5").glob("??/*") if path.suffix != ".tmp"]
    assert files
    for path in files:
        assert hashlib.md5(path.read_bytes()).hexdigest() == path.parent.name + path.name.removesuffix(".dir"), path


def check_taken_up(project: Project, lock: str, again: list[str]) -> None:
    """The next run runs `again` and what was left, and ends as one that nothing touched: lock, outputs, and every file of the cache."""
    begun = project.executed()
    project.dvc("repro")
    assert project.executed() == sorted({"train", "measure", "report"} - set(begun) | set(again))
    assert (project.root / "dvc.lock").read_text(encoding="utf-8") == lock
    assert project.changed() == set() and project.dvc("repro").endswith("Data and pipelines are up to date.\n")
    check_cache(project.root / ".dvc/cache")


@pytest.mark.parametrize("moment", slow_after(1, MOMENTS))
def test_killed_between_a_stage_s_end_and_its_entry(tiny: Project, lock: str, moment: str) -> None:
    broken(tiny, moment, "kill")
    check_taken_up(tiny, lock, MOMENTS[moment])


@pytest.mark.parametrize("moment", slow_after(1, [HALF, *MOMENTS]))
def test_a_disk_that_fills_there(small_disk: Path, lock: str, moment: str) -> None:
    project = make(small_disk / "tiny")
    printed = broken(project, moment, "fill")
    assert "No space left on device" in printed and "Traceback" not in printed, printed
    (project.root / "filler").unlink()
    os.chdir(project.root)
    dvc_left_over.mend_path_locks(seconds=0)
    dvc_left_over.mend_lock()
    check_taken_up(project, lock, MOMENTS.get(moment, []))


def test_killed_while_dvc_lock_is_written(
    tiny: Project, lock: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """DVC refuses half a lock in each of its commands; snakemake cuts it back to whole entries, and the rest comes from the run cache."""
    tiny.dvc("repro")
    tiny.executed()
    tiny.edit("n: 1", "n: 2")
    tiny.dvc("repro")
    tiny.executed()
    tiny.edit("n: 2", "n: 1")
    broken(tiny, HALF, "kill-half")
    half = (tiny.root / "dvc.lock").read_text(encoding="utf-8")
    assert not half.endswith("\n")
    monkeypatch.chdir(tiny.root)
    assert dvc_left_over.ends_within_a_line(dvc_left_over.LOCK)
    dvc_left_over.mend_lock()
    assert "half written" in caplog.text
    tiny.dvc("repro")
    assert tiny.executed() == [] and (tiny.root / "dvc.lock").read_text(encoding="utf-8") == lock
    dvc_left_over.mend_lock()
    assert caplog.text.count("half written") == 1


@pytest.mark.parametrize(
    "last", ["", "    cm", "    cmd: x\n    deps:\n    - path: in\n      md5\n"], ids=["whole", "within a line", "at a line's end"]
)
def test_a_question_mends_a_lock_that_was_cut(
    tiny: Project, lock: str, last: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tiny.root)
    tiny.dvc("repro")
    dvc_left_over.LOCK.write_text(f"{lock}  zz:\n{last}" if last else lock, encoding="utf-8")
    assert dvc_plan.ask_dvc()["stale"] == {}
    assert dvc_left_over.LOCK.read_text(encoding="utf-8") == lock and caplog.text.count("half written") == bool(last)


@pytest.mark.parametrize("cut", [0, 5, 24, 60])
def test_a_lock_without_a_whole_entry_goes_and_one_with_a_conflict_stays(
    tiny: Project, lock: str, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.root)
    dvc_left_over.LOCK.write_text(lock[:cut], encoding="utf-8")
    dvc_left_over.mend_locked_file()
    assert not dvc_left_over.LOCK.exists()
    last = lock[lock.rindex("\n    ") + 1 :]
    both = f"{'<' * 7} HEAD\n{last}{'=' * 7}\n{last}{'>' * 7} other\n"
    for conflict in (lock.replace("  report:\n", f"{'<' * 7} HEAD\n  report:\n"), lock.replace(last, both)):
        dvc_left_over.LOCK.write_text(conflict, encoding="utf-8")
        dvc_left_over.mend_locked_file()
        assert dvc_left_over.LOCK.read_text(encoding="utf-8") == conflict


def test_half_a_file_that_a_kill_left_in_a_folder_changes_nothing(tiny: Project, lock: str) -> None:
    tiny.dvc("repro")
    (tiny.root / "out/.b.json.4242.tmp").write_text("half", encoding="utf-8")
    assert tiny.changed() == set()
    tiny.dvc("repro", "--force")
    assert (tiny.root / "dvc.lock").read_text(encoding="utf-8") == lock


@pytest.mark.parametrize("number", slow_after(1, [signal.SIGHUP, signal.SIGTERM, signal.SIGINT]))
def test_a_closed_terminal_and_other_ends_of_a_run(tiny: Project, lock: str, number: signal.Signals) -> None:
    run = start(tiny, "repro", HANG="measure")
    wait_for(tiny, "measure")
    os.killpg(run.pid, number)
    printed, _ = run.communicate(timeout=60)
    assert run.returncode != 0 and "Traceback" not in printed, printed
    check_taken_up(tiny, lock, ["measure"])


def test_a_run_that_is_stopped_goes_on(tiny: Project, lock: str) -> None:
    run = start(tiny, "repro", HANG="train")
    wait_for(tiny, "train")
    os.killpg(run.pid, signal.SIGSTOP)
    tiny.runs.with_name(tiny.runs.name + ".go").touch()
    time.sleep(1)
    assert run.poll() is None and not (tiny.root / "measured.txt").exists()
    os.killpg(run.pid, signal.SIGCONT)
    run.communicate(timeout=60)
    assert run.returncode == 0 and tiny.executed() == ["measure", "report", "train"]
    assert (tiny.root / "dvc.lock").read_text(encoding="utf-8") == lock


@pytest.mark.slow
def test_nobody_reads_what_a_run_prints(tiny: Project, lock: str) -> None:
    run = start(tiny, "repro")
    assert run.stdout is not None
    run.stdout.close()
    run.wait(timeout=60)
    begun = tiny.runs.read_text(encoding="utf-8").split() if tiny.runs.exists() else []  # DVC ends where it prints next
    check_taken_up(tiny, lock, [] if run.returncode == 0 else begun[-1:])


def test_dvc_repro_beside_a_job_says_who_is_at_work_and_harms_nothing(tiny: Project, lock: str) -> None:
    """A job of `make repro`, and `dvc repro` typed beside it."""
    job = start(tiny, "--wait-for-lock", "repro", "--single-item", "train", HANG="train")
    wait_for(tiny, "train")
    refused = tiny.dvc("repro", code=None)
    assert "is busy" in refused and f"PID {job.pid}" in refused and "Traceback" not in refused, refused
    tiny.runs.with_name(tiny.runs.name + ".go").touch()
    job.communicate(timeout=60)
    assert job.returncode == 0
    check_taken_up(tiny, lock, [])


@pytest.mark.slow
def test_two_checkouts_share_a_cache(tmp_path: Path, lock: str) -> None:
    """Both run at once, and a third finds everything there.

    DVC may lose the race for one object of the cache (one run of eight did, at its last output): that run's next one takes up the rest.
    """
    projects = [make(tmp_path / name) for name in ("one", "other", "third")]
    for project in projects:
        project.dvc("cache", "dir", "--local", str(tmp_path / "cache"))
    runs = [start(project, "repro") for project in projects[:2]]
    printed = [run.communicate(timeout=120)[0] for run in runs]
    lost = [project for project, run in zip(projects, runs, strict=False) if run.returncode != 0]
    assert len(lost) < 2, printed
    for project in [*lost, projects[2]]:
        project.dvc("repro")
    assert projects[2].executed() == []
    for project in projects:
        assert (project.root / "dvc.lock").read_text(encoding="utf-8") == lock
        assert (project.root / "report.txt").read_text(encoding="utf-8").startswith("n: 1\n1\n2\n")
    check_cache(tmp_path / "cache")


@pytest.mark.slow
def test_a_shared_cache_under_a_closed_umask_is_open_to_the_group(tiny: Project, tmp_path: Path) -> None:
    """As workflow/CLUSTER.md says it: `cache.shared group`, since a umask of 077 would lock the others out."""
    tiny.dvc("cache", "dir", "--local", str(tmp_path / "cache"))
    tiny.dvc("config", "--local", "cache.shared", "group")
    before = os.umask(0o077)
    try:
        tiny.dvc("repro")
    finally:
        os.umask(before)
    places = [path for path in (tmp_path / "cache/files").rglob("*")]
    assert any(path.is_file() for path in places)
    for path in places:
        needed = stat.S_IRGRP | (stat.S_IWGRP | stat.S_IXGRP if path.is_dir() else 0)
        assert path.stat().st_mode & needed == needed, (path, oct(path.stat().st_mode))
