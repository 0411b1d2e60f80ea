"""Records: their schema, that they are canonical, and that nothing private gets into them."""

import json
import logging
import os
from pathlib import Path

import pytest
import yaml

from backtrail.artifacts import drop_temporaries, file_digest
from backtrail.errors import UserError
from backtrail.ledger.record import LOCAL_PATH, WITHHELD, digests, folder_digest, publishable, recorded
from backtrail.ledger.schema import SCHEMA_FILE, faults, schema_text
from backtrail.parameters.suite import read_suite

ROOT = Path(__file__).parents[2]
RECORD = "results/records/stage.json"
SECRET, PASSWORD = "hf_Xq83kfLs02mfDk", "correct-horse-battery"


def write(folder: Path, parameters: dict, notes: dict | None = None) -> dict:
    (folder / "in.txt").write_text("in")
    with recorded("stage", "fetch", parameters, digests(["in.txt"]), ["out"], [3]) as record:
        (folder / "out").mkdir()
        (folder / "out/a.txt").write_text("a")
        record.notes |= notes or {}
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_published_schema_is_that_of_the_model() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "write it again: SCHEMA_FILE.write_text(schema_text())"


def test_a_record_fits_the_schema_and_is_canonical(inside: Path) -> None:
    record = write(inside, {"teacher": {"lr": 0.1}}, {"resumed_from_step": 12})
    assert faults(record) == []
    assert record["seeds"] == [3] and record["resumed_from"] == [12] and "resumed_from_step" not in record["notes"]
    assert record["inputs"] == {"in.txt": file_digest("in.txt")}
    assert record["outputs"] == {"out": folder_digest({"a.txt": file_digest("out/a.txt")})}
    text = (inside / RECORD).read_text(encoding="utf-8")
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
    text = (inside / RECORD).read_text(encoding="utf-8") + caplog.text
    for private in (SECRET, PASSWORD, "alice", str(inside), os.uname().nodename):
        assert private not in text
    assert record["parameters"] == {
        "local": LOCAL_PATH, "api_key": WITHHELD, "mirror": "https://example.org/data", "text": f"use {WITHHELD}", "archive": LOCAL_PATH,
        "lr": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize(("attempt", "retries"), [(None, 0), ("1", 0), ("3", 2)])
def test_the_record_counts_the_engine_s_retries(inside: Path, monkeypatch: pytest.MonkeyPatch, attempt: str | None, retries: int) -> None:
    monkeypatch.delenv("BACKTRAIL_ATTEMPT", raising=False)
    if attempt:
        monkeypatch.setenv("BACKTRAIL_ATTEMPT", attempt)
    assert write(inside, {})["retries"] == retries


@pytest.mark.parametrize("attempt", ["0", "two", "-1", ""])
def test_an_attempt_that_is_no_count_is_refused_before_the_work(inside: Path, monkeypatch: pytest.MonkeyPatch, attempt: str) -> None:
    monkeypatch.setenv("BACKTRAIL_ATTEMPT", attempt)
    with pytest.raises(UserError, match="BACKTRAIL_ATTEMPT"):
        write(inside, {})
    assert not (inside / "out").exists()


def test_gpu_seconds_are_those_of_a_stage_that_used_a_gpu(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine's GPU that the stage did not touch costs nothing; one that it used counts once for each process."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    record = write(inside, {})
    assert record["device"] is None and record["gpu_seconds"] == 0.0
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90000)
    monkeypatch.setenv("WORLD_SIZE", "2")
    (inside / "out/a.txt").unlink()
    (inside / "out").rmdir()
    record = write(inside, {})
    assert record["device"]["name"] == "a GPU" and record["gpu_seconds"] == pytest.approx(2 * record["seconds"], abs=2e-3)


@pytest.mark.parametrize("place", [("data",), ("metrics", "inception"), ("teacher",)])
@pytest.mark.parametrize("path", ["/home/alice/images", "~/images", "C:\\Users\\alice", "file:///home/alice"])
def test_a_path_that_tells_whose_machine_it_was_is_refused_before_it_is_published(inside: Path, place: tuple[str, ...], path: str) -> None:
    """Parameters stand in dvc.lock and on the report's page, word for word: no record's care would keep such a path out of them."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    if place == ("teacher",):
        values["teacher"] = {"source": "own-edm"}
    elif place == ("metrics", "inception"):
        values["metrics"] |= {"extractors": ["classifier", "inception"], "inception": {}}
        values["report"]["metric"] = "fid_inception"
    part = values
    for name in place:
        part = part[name]
    part["local"] = path
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(UserError, match=f"{'.'.join(place)}.local should be a path relative to the suite's folder"):
        read_suite()
    part["local"] = "originals"
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    read_suite()


def test_what_is_public_is_left_alone() -> None:
    value = {"path": "results/a.csv", "address": "https://example.org/a/b", "numbers": [1, 2.5, None, True], "max_tokens_name": 3}
    assert publishable(value) == value | {"max_tokens_name": WITHHELD}


def test_a_folder_is_the_same_with_and_without_the_engine_s_ignore_file_and_what_a_kill_left(inside: Path) -> None:
    (inside / "folder").mkdir()
    (inside / "folder/a.txt").write_text("a")
    before = digests(["folder"])
    (inside / "folder/.gitignore").write_text("/a.txt\n")
    (inside / "folder/.a.txt.4242.tmp").write_text("half")
    assert digests(["folder"]) == before
    (inside / "folder/.a.tmp").write_text("somebody's own")
    assert digests(["folder"]) != before
    drop_temporaries(["folder/a.txt", "folder/b.txt", "nowhere/c.txt"])
    assert sorted(path.name for path in (inside / "folder").iterdir()) == [".a.tmp", ".gitignore", "a.txt"]
