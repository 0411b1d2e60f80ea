"""Pickles of a few megabytes that ask for gigabytes or minutes: one sentence each, within seconds and 200 MB."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pickle_bombs import bombs

WORK, STORAGES = "asks for more than 1000000 units of work", "its storages claim more than the"
REASONS = {
    "list in 300 ordered dicts": WORK,
    "list in 300 sets": WORK,
    "dict in 300 modules": WORK,
    "tuple in 300 calls": WORK,
    "blob loaded 500 times": STORAGES,
    "small blob loaded 60,000 times": STORAGES,
    "text encoded 500 times": "its texts claim more than the",
    "keys of one hash": "integer of 61 bits as a key",
    "members of one hash": "integer of 61 bits as a key",
    "a million sets": WORK,
    "two million places of memory": WORK,
    "80,000 empty tensors": WORK,
    "300,000 modules": WORK,
    "50,000 weights under 1,000 names": "more modules and weights than any EDM network",
    "a name of 200 kB above 5,000 modules": "more modules and weights than any EDM network",
    "300,000 arguments": "by 300000 arguments, expected at most 100",
}
SECONDS, PEAK_BYTES = 15, 200 << 20  # of CPU time: 1.6 s and 100 MB where these were written


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What came of each bomb, by name; a process with limits opens them."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, content in bombs().items():
        (folder / f"{name}.pkl").write_bytes(content)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(__file__).with_name("pickle_bombs.py")), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return {found["name"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", REASONS)
def test_a_small_file_cannot_ask_for_much(results, name):
    found = results[name]
    assert REASONS[name] in found["sentence"] and "\n" not in found["sentence"] and len(found["sentence"]) < 600
    assert found["seconds"] < SECONDS and found["peak_bytes"] < PEAK_BYTES


def test_every_bomb_is_tried():
    assert set(REASONS) == set(bombs())
