"""The command line: help, exit codes, one sentence for what a user can mend."""

import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backtrail.artifacts import load_json
from backtrail.cli import COMMANDS, STAGES
from backtrail.cli.system_errors import system_error_sentence
from backtrail.errors import UserError
from backtrail.parameters.base import RESERVED
from backtrail.parameters.suite import OF_SCALING

ROOT = Path(__file__).parents[2]


def run(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backtrail", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_help_lists_every_command_and_loads_none_of_them() -> None:
    code = "import sys; from backtrail.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert all(name in done.stdout for name in [*COMMANDS, *STAGES])
    assert done.stdout.splitlines()[-1] == "False"


def test_help_of_a_command_names_its_options() -> None:
    done = run("scratch", "--help")
    assert done.returncode == 0 and "--older-than" in done.stdout and "days" in done.stdout


def test_states_of_stages_that_may_run_are_not_pruned(tmp_path: Path) -> None:
    states = [tmp_path / f".scratch/{name}/step-00000001.safetensors" for name in ("teacher-0123", "path@disback-0-0123")]
    for path in (*states, tmp_path / ".scratch/cache/snakemake/known"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"0" * 100_000)
    os.utime(states[0], (1, 1))
    assert [line.split()[0] for line in run("scratch", folder=tmp_path).stdout.splitlines()] == ["path@disback-0-0123", "teacher-0123"]
    assert run("scratch", "--prune", folder=tmp_path).stdout.startswith("deleted teacher-0123  0.1 MB") and states[1].is_file()
    run("scratch", "--prune", "--older-than", "0", folder=tmp_path)
    assert sorted(path.name for path in (tmp_path / ".scratch").iterdir()) == ["cache"]


def test_an_unknown_command_is_refused() -> None:
    done = run("destil")
    assert done.returncode == 2 and "No such command 'destil'" in done.stderr and "Traceback" not in done.stderr


def test_outside_of_a_suite_it_says_where_to_stand(tmp_path: Path) -> None:
    done = run("teacher", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("backtrail: params.yaml is missing here: run the command in a suite's folder")


def test_an_input_that_is_absent_names_the_cure(tmp_path: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    done = run("teacher", folder=tmp_path)
    assert done.returncode == 2
    assert "data/dataset.safetensors is missing: run the stage that makes it (`dvc repro`), or `dvc pull`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield tmp_path
    os.chdir(ROOT)
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(small_disk: Path) -> None:
    code = (
        "import sys, torch; from backtrail import cli; from backtrail.tensors import save_tensors\n"
        "cli.backtrail = lambda **_: save_tensors('weights.safetensors', {'a': torch.zeros(1 << 20)})\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=small_disk, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("\n") == 1 and "No space left on device" in done.stderr
    assert list(small_disk.iterdir()) == []


def test_no_name_of_the_user_is_a_stage() -> None:
    assert {stage for stage in STAGES if not stage.startswith(("ring-", "text-", "latent-"))} <= RESERVED | OF_SCALING | {"start"}


@pytest.mark.parametrize("content", ["folder", "latin-1", "digits", "brackets"])
def test_check_refuses_what_it_cannot_read_in_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.yaml"
    texts = {"latin-1": "# Größe\n".encode("latin-1"), "digits": b"seeds: " + b"9" * 5000, "brackets": b"[" * 100_000}
    path.mkdir() if content == "folder" else path.write_bytes(texts[content])
    done = run("check", folder=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("backtrail: params.yaml"), done.stderr


@pytest.mark.parametrize("content", [b"9" * 5000, b"[" * 200_000, b"\xff", b"", b"{"])
def test_hostile_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match="is not JSON"):
        load_json(tmp_path / "a.json")


def test_a_log_that_is_not_utf8_shows_question_marks() -> None:
    code = "from backtrail import cli; cli.backtrail = lambda **_: print('Größe 日'); cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Gr??e ?\n", b"")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b could not be written: No space left on device; what was there"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a may not be read or written by you: Permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a\nb"), "'a\\nb' is not what it should be: Is a directory"),
        (UnicodeDecodeError("utf-8", b"a\xf6", 1, 2, "invalid"), "a text file is not UTF-8 (byte 0xf6 at 1)"),
        (MemoryError("2 GB for the features"), "not enough memory: 2 GB for the features, beside the "),
        (MemoryError(), "not enough memory: more was asked for, beside the "),
        (OSError(errno.EFBIG, "File too large", "a"), "a could not be written: File too large"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_machine_does_is_one_sentence(error: Exception, expected: str) -> None:
    assert str(system_error_sentence(error)).startswith(expected)


def test_a_fault_of_our_own_keeps_its_traceback() -> None:
    assert system_error_sentence(FileNotFoundError(errno.ENOENT, "No such file or directory", "a")) is None


MANY_LINES = "from backtrail import cli; cli.backtrail = lambda **_: print('line\\n' * 100_000); cli.main()"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`backtrail why ... | head -1`, also where all that is printed fits into one buffer."""
    for command in ([sys.executable, "-c", MANY_LINES], [sys.executable, "-m", "backtrail", "--help"]):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 1


def test_what_a_library_prints_to_a_closed_stream_enters_no_file(tmp_path: Path) -> None:
    """The numbers of closed streams are the lowest that are free: the next file that is opened would get them."""
    code = (
        "import os; from backtrail import cli\n"
        "def work(**_):\n"
        "    with open('result.bin', 'wb') as file:\n"
        "        os.system('echo a warning; echo another >&2'); file.write(b'result')\n"
        "cli.backtrail = work; cli.main()"
    )
    subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{code}" <&- >&- 2>&-'], cwd=tmp_path, check=True)
    assert (tmp_path / "result.bin").read_bytes() == b"result"


@pytest.mark.parametrize("library", ["torch.zeros(1 << 40)", "numpy.zeros(1 << 40)", "bytearray(1 << 40)"])
def test_a_memory_limit_is_one_sentence_with_what_it_needed(library: str) -> None:
    code = (
        "import resource, numpy, torch; from backtrail import cli\n"
        "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
        f"cli.backtrail = lambda **_: {library}\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 4 and done.stderr.count("\n") == 1, done.stderr
    asked = {"t": "4,398,047 MB were asked for", "n": "8.00 TiB were asked for", "b": "more was asked for"}[library[0]]
    assert re.match(rf"backtrail: not enough memory: {asked}, beside the [1-9][\d,]* MB that this process had", done.stderr), done.stderr


def test_a_gpu_s_memory_is_told_alike() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.77 GiB")
    assert str(system_error_sentence(error)).startswith("not enough memory: 20.00 GiB were asked for, beside the ")
    assert system_error_sentence(RuntimeError("shapes do not fit")) is None


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stage_without_a_loop_stops_when_it_is_told_though_its_job_ignores_the_signal(told):
    """The shell of a job ignores both signals, and a process starts with what its parent ignores."""
    code = (
        "import sys, time, backtrail.stages.tables as tables; from backtrail import cli; from backtrail.running.stage import as_command\n"
        "def work(name): print('at work', flush=True); time.sleep(60)\n"
        "tables.command = as_command(work, work); sys.argv[1:] = ['tables']; cli.main()"
    )
    script = f"trap '' TERM USR1; exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "at work\n"
        process.send_signal(told)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 75
    assert said == f"backtrail: stopped by {told.name} before it was done; the next run starts it again\n"
