"""Records: their schema, that they are canonical, and that nothing private gets into them."""

import json
import logging
import os
from pathlib import Path

import pytest

from backtrail.artifacts import file_digest
from backtrail.provenance.record import LOCAL_PATH, WITHHELD, folder_digest, publishable, recorded
from backtrail.provenance.schema import SCHEMA_FILE, faults, schema_text

MODULE = "backtrail.errors"
SECRET, PASSWORD = "hf_Xq83kfLs02mfDk", "correct-horse-battery"


def write(folder: Path, parameters: dict, notes: dict | None = None) -> dict:
    (folder / "in.txt").write_text("in")
    path = folder / "record.json"
    with recorded("stage", MODULE, parameters, ["in.txt"], ["out"], path) as record:
        (folder / "out").mkdir()
        (folder / "out/a.txt").write_text("a")
        record.notes |= notes or {}
    return json.loads(path.read_text())


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_published_schema_is_that_of_the_model() -> None:
    assert SCHEMA_FILE.read_text() == schema_text(), "write it again: SCHEMA_FILE.write_text(schema_text())"


def test_a_record_fits_the_schema_and_is_canonical(inside: Path) -> None:
    record = write(inside, {"method": {"lr": 0.1}, "seed": 3}, {"resumed_from_step": 12})
    assert faults(record) == []
    assert record["seeds"] == [3] and record["resumed_from"] == [12] and "resumed_from_step" not in record["notes"]
    assert record["inputs"] == {"in.txt": file_digest("in.txt")}
    assert record["outputs"] == {"out": folder_digest({"a.txt": file_digest("out/a.txt")})}
    text = (inside / "record.json").read_text()
    assert text == json.dumps(record, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"seconds": -1.0}, "seconds"), ({"surplus": 1}, "surplus"), ({"schema": 1}, "schema"), ({"seeds": ["0"]}, "seeds.0")],
)
def test_a_record_that_does_not_fit_is_faulted(inside: Path, change: dict, fault: str) -> None:
    (wrong,) = faults(write(inside, {}) | change)
    assert wrong.startswith(f"{fault}:")


def test_secrets_of_environment_and_parameters_stay_out(
    inside: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HOME", str(inside / "home/alice"))
    parameters = {
        "local": str(inside / "home/alice/images"),
        "api_key": PASSWORD,
        "mirror": f"https://alice:{PASSWORD}@example.org/data?token={SECRET}",
        "text": f"use {SECRET}",
        "archive": "~/images.zip",
        "lr": 0.1,
    }
    with caplog.at_level(logging.DEBUG):
        record = write(inside, parameters, {"origin": f"copied from {inside}/home/alice/images"})
    text = (inside / "record.json").read_text() + caplog.text
    for private in (SECRET, PASSWORD, "alice", str(inside), os.uname().nodename):
        assert private not in text
    assert record["parameters"] == {
        "local": LOCAL_PATH, "api_key": WITHHELD, "mirror": "https://example.org/data", "text": f"use {WITHHELD}", "archive": LOCAL_PATH,
        "lr": 0.1,
    }  # fmt: skip


def test_what_is_public_is_left_alone() -> None:
    value = {"path": "results/a.csv", "address": "https://example.org/a/b", "numbers": [1, 2.5, None, True], "max_tokens_name": 3}
    assert publishable(value) == value | {"max_tokens_name": WITHHELD}


def test_a_folder_is_the_same_with_and_without_the_engine_s_ignore_file(inside: Path) -> None:
    from backtrail.provenance.record import digests

    (inside / "folder").mkdir()
    (inside / "folder/a.txt").write_text("a")
    before = digests(["folder"])
    (inside / "folder/.gitignore").write_text("/a.txt\n")
    assert digests(["folder"]) == before
