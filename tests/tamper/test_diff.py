"""`backtrail diff HEAD .` after another machine has run the suite: it names the processor, and no code that does not differ."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from backtrail.audit.compare import compare
from backtrail.audit.published import publish
from backtrail.cli.diff import SHOWN, by_reasons, command
from tamper.forging import edit_record, rewrite_ledger
from tamper.hand_made import LAST, STAGES
from tamper.repository import commit, run

OTHER = "Another Maker's Processor"


def run_elsewhere(folder: Path) -> None:
    """Weights and values made anew by another machine, with a ledger of its own."""
    (folder / "results/teacher/teacher.safetensors").write_text("other weights")
    (folder / LAST).write_text(json.dumps({"protocol": [], "values": {"heun": {"nfe34": {"fd": 4.5}}}}))
    for stage in STAGES:
        edit_record(folder, stage, lambda record: record["host"].update(processor=OTHER))
    rewrite_ledger(folder)


def said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(command, ["HEAD", "."]).stdout.splitlines()


def here(folder: Path) -> str:
    return str(json.loads((folder / "results/records/teacher.json").read_text(encoding="utf-8"))["host"]["processor"])


def test_the_processor_is_named_and_no_code(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    was = here(suite)
    run_elsewhere(suite)
    lines = said(suite, monkeypatch)
    assert lines[:2] == ["teacher is where they part:", f"  host.processor: {was!r} / {OTHER!r}"]
    assert lines[2] == "differ because of that: metrics" and not [line for line in lines if "code" in line]


def test_the_processor_is_named_where_the_published_records_are_not_at_hand(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a clone: the records of the commit lie in a cache elsewhere; what is committed beside the tables says where they were made."""
    was = here(suite)
    (suite / "reports/tables").mkdir(parents=True)
    (suite / "reports/tables/results.csv").write_text("kind,method\n")
    publish(suite)
    (suite / ".gitignore").write_text("results/records\n")
    run(suite, "git", "rm", "--quiet", "-r", "--cached", "results/records")
    commit(suite, "as published")
    (suite / "reports/tables/results.csv").write_text("kind,method\nteacher,heun\n")
    run_elsewhere(suite)
    lines = said(suite, monkeypatch)
    assert lines[:2] == ["teacher is where they part:", f"  processor: {was!r} / {OTHER!r}"]
    assert not [line for line in lines if "code" in line]


def test_without_any_note_it_says_what_is_not_known(suite: Path) -> None:
    (suite / ".gitignore").write_text("results/records\n")
    run(suite, "git", "rm", "--quiet", "-r", "--cached", "results/records")
    commit(suite, "as published")
    run_elsewhere(suite)
    (reason,) = compare("HEAD", str(suite), suite)["parted"][0]["reasons"]
    assert "the record of HEAD is not at hand to say so" in reason and f"ran on {OTHER}" in reason


def test_stages_that_part_for_one_reason_are_said_together() -> None:
    parted = [{"stage": stage, "reasons": [reason]} for stage, reason in (("a", "x"), ("b", "y"), ("c", "x"))]
    assert by_reasons(parted) == {("x",): ["a", "c"], ("y",): ["b"]}


def test_many_files_of_code_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = [f"code: {i}.py" for i in range(80)] + ["host.processor: 1 / 2"]
    found = {"parted": [{"stage": "teacher", "reasons": reasons}], "numbers": []}
    monkeypatch.setattr("backtrail.cli.diff.compare", lambda first, second: found)
    lines = CliRunner().invoke(command, ["HEAD", "."]).stdout.splitlines()
    assert len(lines) == 1 + SHOWN + 2
    assert lines[-2:] == [
        "  host.processor: 1 / 2",
        f"  and {80 - SHOWN} more files of code (--json has them)",
    ]
