"""A job writes its stage's entry of dvc.lock alone: the file is, to the byte, the one that DVC would have written."""

import io
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import dumps_yaml
from dvc.utils.serialize._yaml import _dump, parse_yaml_for_update

import dvc_stage

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "suites" / "fashion-text-teacher" / "dvc.lock").read_text(encoding="utf-8")
STAGES = list(parse_yaml_for_update(LOCK, "dvc.lock")["stages"])
TRICKY = {
    "lines": "one\n\nthree, below a blank line\n  and to the right",
    "digest": "0123456789abcdef" * 8,
    "empty": {},
    "none": None,
    "words": "a sentence of more than eighty characters, which is folded within the line where a space allows it, twice",
}


def as_dvc_writes(text: str, stage: dict[str, Any]) -> str:
    """The lock by DVC's own two functions: the whole file read for update and written."""
    whole = parse_yaml_for_update(text, "dvc.lock")
    whole["stages"].update(stage)
    stream = io.StringIO()
    _dump(whole, stream)
    return stream.getvalue()


@pytest.mark.parametrize("name", [STAGES[0], STAGES[len(STAGES) // 2], STAGES[-1], "a-new-one", "axis@k=1,rho=2"])
def test_an_entry_is_written_as_dvc_writes_the_whole_file(name: str) -> None:
    stage = {name: {"cmd": "python backtrail", "params": {"params.yaml": TRICKY}, "outs": [{"path": "out", "md5": "0" * 32, "size": 7}]}}
    once = dvc_stage.with_entry(LOCK, dumps_yaml({"stages": stage}).removeprefix("stages:\n"))
    assert once == as_dvc_writes(LOCK, stage)
    stage[name]["outs"][0]["size"] = 8  # and once more, over what has just been written
    again = dvc_stage.with_entry(once, dumps_yaml({"stages": stage}).removeprefix("stages:\n"))
    assert again == as_dvc_writes(once, stage) != once


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("", "  one:\n    cmd: x\n"),
        ("schema: '2.0'\ndatasets:\n- name: one\nstages:\n  one:\n    cmd: x\n", "  one:\n    cmd: x\n"),
        ("schema: '2.0'\nstages:\n  one:\n    cmd", "  one:\n    cmd: x\n"),
        ("schema: '2.0'\nstages:\n  two:\n    cmd: x\ndatasets:\n- name: one\n", "  one:\n    cmd: x\n"),
        (LOCK, "  one:\n    params:\n      params.yaml:\n        net: &id001\n          width: 3\n        teacher.net: *id001\n"),
        (LOCK, "  one: {}\n"),
        (LOCK, "  ? one\n  : cmd: x\n"),
    ],
    ids=["no lock", "a section before", "cut off", "a section behind", "one value twice", "nothing in it", "a long name"],
)
def test_another_form_is_left_to_dvc(text: str, entry: str) -> None:
    with pytest.raises(ValueError, match="nor an entry"):
        dvc_stage.with_entry(text, entry)


def test_a_full_disk_leaves_the_old_lock(tmp_path: Path) -> None:
    path = tmp_path / "dvc.lock"
    path.write_text(LOCK, encoding="utf-8")
    with pytest.raises(UnicodeEncodeError):  # as good as a full disk: the draft is begun and not ended
        dvc_stage.replace(path, "schema: '2.0'\n\udc80")
    assert path.read_text(encoding="utf-8") == LOCK
    assert [item.name for item in tmp_path.iterdir()] == ["dvc.lock"]
