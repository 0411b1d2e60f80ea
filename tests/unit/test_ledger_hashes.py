"""Digests against DVC's and the system's own, and what reading costs."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from backtrail.audit.alike import apart
from backtrail.audit.quotes import same_rounded
from backtrail.ledger.hashes import Hashes, hash_file
from backtrail.nested import differences, is_number, leaves

AUDIT = """
from backtrail.cli import backtrail
try:
    backtrail(["audit"], standalone_mode=False)
except SystemExit:
    print(open("/proc/self/status").read())
"""


def test_a_file_has_the_digests_that_the_system_s_tools_print(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(os.urandom(3_000_001))
    found = hash_file(path)
    for tool, digest in (("md5sum", found.md5), ("sha256sum", found.sha256)):
        assert subprocess.run([tool, str(path)], capture_output=True, text=True, check=True).stdout.split()[0] == digest
    assert found.size_bytes == 3_000_001


def test_a_folder_has_dvc_s_digest_without_what_dvc_is_told_to_ignore(tmp_path: Path) -> None:
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs import LocalFileSystem

    names = ("b.txt", "a/c.txt", "a.txt", "a-b/d.txt", "ä.txt", "tests/e.txt")
    for name in names:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text(name)
    fs = LocalFileSystem()
    _, _, tree = build(HashFileDB(fs, str(tmp_path / "db")), str(tmp_path / "folder"), fs, "md5", dry_run=True)
    (tmp_path / ".dvcignore").write_text("# not these\n.gitignore\n.*.tmp\n*.pyc\nlogs/\n/tests/\n")
    for name in (".gitignore", ".b.txt.4242.tmp", "x.pyc", "a/logs/y.txt", "__pycache__/z.txt"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text("left out")
    found = Hashes(tmp_path).of("folder")
    assert found is not None and found.md5 == tree.hash_info.value


def test_each_byte_is_read_once_and_time_stamps_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1000)
    hashes = Hashes(tmp_path)
    before = hashes.of("a")
    hashes.of("a")
    assert hashes.bytes_read == 1000
    state = path.stat()
    path.write_bytes(b"y" * 1000)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert Hashes(tmp_path).of("a") != before


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with open(path, "wb") as file:
        file.truncate(400_000_000)
    code = f"from backtrail.ledger.hashes import hash_file; hash_file({str(path)!r}); print(open('/proc/self/status').read())"
    status = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    kilobytes = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert kilobytes < 300_000


@pytest.mark.slow
def test_a_hash_audit_of_ten_gigabytes_takes_no_more_than_sha256sum_and_a_half(tmp_path: Path) -> None:
    """Ten files of 1 GB, or three where the disk has no room for more. They are read once before, so that both read them from memory."""
    n_files = 10 if shutil.disk_usage(tmp_path).free > 15e9 else 3
    block = os.urandom(1_000_000)
    names = [f"results/big/{i}" for i in range(n_files)]
    (tmp_path / "results/big").mkdir(parents=True)
    for name in names:
        with open(tmp_path / name, "wb") as file:
            for _ in range(1000):
                file.write(block)
    md5 = hashlib.md5(usedforsecurity=False)
    for _ in range(1000):
        md5.update(block)
    stage = {"cmd": "-", "outs": [{"path": name, "md5": md5.hexdigest(), "size": 1_000_000_000} for name in names]}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"big": stage}}))
    (tmp_path / "dvc.yaml").write_text("stages: {big: {cmd: '-'}}")
    (tmp_path / "params.yaml").write_text("code: src")

    def seconds(*command: str) -> tuple[float, str]:
        started = time.perf_counter()
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return time.perf_counter() - started, done.stdout

    seconds("sha256sum", *names)
    theirs, _ = seconds("sha256sum", *names)
    ours, said = seconds(sys.executable, "-c", AUDIT)
    assert f"{n_files * 10**9:,} bytes read" in said and "broken" not in said  # unbacked: the files have no record
    peak_bytes = int(re.search(r"VmHWM:\s+(\d+) kB", said)[1]) * 1024
    print(f"{n_files} GB: sha256sum {theirs:.1f} s, audit {ours:.1f} s, at most {peak_bytes / 1e6:.0f} MB")
    assert ours <= 1.5 * theirs and peak_bytes < 300e6


@pytest.mark.parametrize(
    ("shown", "value", "same"),
    [
        ("22.6", "22.5935543", True),
        ("22.5", "22.5935543", False),
        ("1,234", "1234.4", True),
        ("held", "held", True),
        ("0.040", "0.04", True),
    ],
)
def test_a_quoted_number_must_be_the_value_rounded(shown: str, value: str, same: bool) -> None:
    assert same_rounded(shown, value) is same


def test_results_that_are_rounded_otherwise_are_held_against_one_another(tmp_path: Path) -> None:
    import torch

    from backtrail.tensors import save_tensors

    draw = torch.Generator().manual_seed(0)
    weights, other = torch.randn(100, 100, generator=draw), torch.randn(100, 100, generator=draw)
    forms = {"a": weights, "near": weights + 1e-3, "far": weights * 1.5, "nan": weights * float("nan"), "other": other}
    for name, of in forms.items():
        save_tensors(tmp_path / f"{name}.safetensors", {"w": of})
    assert apart(tmp_path / "a.safetensors", tmp_path / "a.safetensors") == 0
    assert apart(tmp_path / "a.safetensors", tmp_path / "near.safetensors") == pytest.approx(1e-3, rel=0.02)
    assert apart(tmp_path / "a.safetensors", tmp_path / "far.safetensors") == pytest.approx(0.5, rel=0.02)
    assert apart(tmp_path / "a.safetensors", tmp_path / "nan.safetensors") == float("inf")
    assert apart(tmp_path / "a.safetensors", tmp_path / "other.safetensors") == pytest.approx(2**0.5, rel=0.02), (
        "of the same mean and spread"
    )
    (tmp_path / "a.csv").write_text("x,y\na,1.00\n")
    (tmp_path / "b.csv").write_text("x,y\na,1.02\n")
    (tmp_path / "c.csv").write_text("x,y\nb,1.00\n")
    assert apart(tmp_path / "a.csv", tmp_path / "b.csv") == pytest.approx(0.02) and apart(tmp_path / "a.csv", tmp_path / "c.csv") == float(
        "inf"
    )


def test_images_are_held_each_against_its_own_seed_s() -> None:
    """Other images of the same law, or the same ones in another order, have the same mean and spread and are not alike."""
    import torch

    from backtrail.audit.alike import images_apart

    draw = torch.Generator().manual_seed(0)
    images, others = (torch.randint(256, (64, 1, 8, 8), generator=draw, dtype=torch.uint8) for _ in range(2))
    rounded = (images.int() + torch.randint(-1, 2, images.shape, generator=draw)).clamp(0, 255).to(torch.uint8)
    assert images_apart(images, images) == 0 < images_apart(images, rounded) < 0.02
    assert images_apart(images, others) > 0.9 and images_apart(images, images.roll(1, 0)) > 0.9
    one = images.clone()
    one[5, 0, 0, 0] ^= 1  # the distance of a single grey level is none that is nothing
    assert 0 < images_apart(images, one) < 1e-4


def test_nested_values_are_walked_place_by_place() -> None:
    one, other = {"a": {"b": 1, "c": [1, 2]}, "d": True}, {"a": {"b": 1, "c": [1, 3]}, "e": "x", "d": 1}
    assert list(differences(one, other)) == [(("a", "c", "1"), 2, 3), (("d",), True, 1), (("e",), None, "x")]
    assert list(leaves(one)) == [(("a", "b"), 1), (("a", "c", "0"), 1), (("a", "c", "1"), 2), (("d",), True)]
    assert is_number(1) and is_number(1.5) and not is_number(True) and not is_number("1")
