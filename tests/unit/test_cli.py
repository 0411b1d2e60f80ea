"""The command line: help, exit codes, one sentence for what a user can mend."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backtrail.cli import COMMANDS, STAGES

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
    assert done.returncode == 0 and "--older-than" in done.stdout and "[default: 0.0" in done.stdout and "days" in done.stdout


def test_an_unknown_command_is_refused() -> None:
    done = run("destil")
    assert done.returncode == 2 and "No such command 'destil'" in done.stderr and "Traceback" not in done.stderr


def test_outside_of_a_suite_it_says_where_to_stand(tmp_path: Path) -> None:
    done = run("teacher", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("backtrail: params.yaml is missing here: run the command in a suite's folder")


def test_an_input_that_is_absent_names_the_cure(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
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
