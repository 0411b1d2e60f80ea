"""Records and recipe keys: what decides a result is in the key, what does not is not."""

import os
from pathlib import Path

import pytest

from backtrail.artifacts import load_json
from backtrail.ledger.fingerprints import code_fingerprints
from backtrail.ledger.record import digests, recipe_key, recorded

RECIPE = {"stage": "teacher", "parameters": {"lr": 0.1, "steps": 3}, "inputs": {"a": "1"}, "code": {"x.py": "2"}}


def test_the_key_does_not_depend_on_order() -> None:
    turned = RECIPE | {"parameters": {"steps": 3, "lr": 0.1}}
    assert recipe_key(**RECIPE) == recipe_key(**turned)


@pytest.mark.parametrize(
    "change", [{"stage": "path"}, {"parameters": {"lr": 0.2, "steps": 3}}, {"inputs": {"a": "2"}}, {"code": {"x.py": "3"}}], ids=str
)
def test_the_key_depends_on_everything_that_decides_the_result(change: dict) -> None:
    assert recipe_key(**RECIPE) != recipe_key(**(RECIPE | change))


def test_a_record_holds_inputs_as_they_were_and_outputs_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET_TOKEN", "hunter2hunter2")
    Path("in.txt").write_text("before", encoding="utf-8")
    before = digests(["in.txt"])
    with recorded("stage@x-0", "fetch", {"a": 1}, digests(["in.txt"]), ["out"], [0]) as record:
        Path("in.txt").write_text("after", encoding="utf-8")
        Path("out").mkdir()
        Path("out/one").write_text("1", encoding="utf-8")
        record.notes["kept"] = 3
    value = load_json("results/records/stage@x-0.json")
    assert value["inputs"] == before and value["outputs"] == digests(["out"])
    assert value["code"] == code_fingerprints("fetch") and {"stages/fetch.py", "errors.py"} <= set(value["code"]) and value["seeds"] == [0]
    assert value["notes"] == {"kept": 3} and value["parameters"] == {"a": 1}
    text = Path("results/records/stage@x-0.json").read_text(encoding="utf-8")
    assert "hunter2" not in text and str(tmp_path) not in text and os.uname().nodename not in text


def test_a_stage_that_fails_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError), recorded("s", "fetch", {}, {}, []):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_digest_sees_names_and_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d").mkdir()
    seen = set()
    for name, text in (("a", "1"), ("b", "1"), ("b", "2")):
        for old in Path("d").iterdir():
            old.unlink()
        Path("d", name).write_text(text, encoding="utf-8")
        seen.add(digests(["d"])["d"])
    assert len(seen) == 3
