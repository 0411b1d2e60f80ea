"""Links that were taken out of a ledger, and ledgers that lead their reader elsewhere: on the suite that is made by hand in a moment."""

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backtrail.audit.audit import audit
from backtrail.audit.findings import BROKEN, EXIT_CODES, STALE, UNBACKED
from backtrail.audit.left_out import dropped
from backtrail.audit.published import FILE, publish
from backtrail.audit.reproduced import reproduced
from backtrail.audit.why import why
from backtrail.cli.audit import plain
from backtrail.errors import UserError
from backtrail.laid_down import ROOT
from backtrail.ledger.confined import open_confined
from backtrail.ledger.ledger import open_ledger
from backtrail.ledger.seal import SEAL, SIGNATURE
from tamper.forging import edit_lock, edit_record, rewrite_lock_only
from tamper.hand_made import LAST, PARAMS
from tamper.repository import commit
from unit.refusals import as_yaml

TEACHER, RESULTS = "results/teacher/teacher.safetensors", "reports/tables/results.csv"


def no_teacher(folder: Path) -> None:
    """The number rests on no teacher any more, by the lock and by the record."""
    edit_record(folder, "metrics", lambda record: record.update(inputs={}))
    edit_lock(folder, lambda stages: stages["metrics"].pop("deps"))


def one_more(folder: Path) -> None:
    (folder / "page.html").write_text("best of all", encoding="utf-8")
    edit_lock(folder, lambda stages: stages["metrics"]["outs"].append({"path": "page.html", "md5": "0" * 32, "size": 0}))
    rewrite_lock_only(folder)


def no_parameter(folder: Path) -> None:
    edit_lock(folder, lambda stages: stages["metrics"]["params"].pop("params.yaml"))


def other_command(folder: Path) -> None:
    edit_lock(folder, lambda stages: stages["metrics"].update(cmd="cp better.json results/metrics/teacher.json"))


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (no_teacher, f"dvc.lock lacks its input {TEACHER}"),
        (one_more, "dvc.lock has one output more, page.html"),
        (no_parameter, "dvc.lock lacks its parameter metrics"),
        (other_command, "which is none of this package's"),
    ],
)
def test_a_stage_that_is_not_as_declared_is_named_with_the_link(suite: Path, forge: Callable[[Path], None], message: str) -> None:
    forge(suite)
    done = audit(suite)
    found = [of for of in done.findings if of.subject == "stage:metrics" and of.verdict == STALE and message in of.message]
    assert found and done.exit_code >= EXIT_CODES[STALE] and done.resting_on(found[0])


def test_a_record_of_another_command_is_broken(suite: Path) -> None:
    edit_record(suite, "metrics", lambda record: record.update(command="teacher"))
    (finding,) = audit(suite).findings
    assert finding.verdict == BROKEN and "is of the command 'teacher'" in finding.message


@pytest.mark.parametrize("path", ["/", "/etc/hostname", "..", "../..", "../other/results", "results/../../x", "."])
@pytest.mark.parametrize("where", ["input", "output", "recorded"])
def test_a_ledger_that_names_what_lies_outside_is_refused_and_nothing_is_read(suite: Path, path: str, where: str) -> None:
    entry = {"path": path, "md5": "0" * 32, "size": 1}
    if where == "recorded":
        edit_record(suite, "metrics", lambda record: record["inputs"].update({path: "0" * 64}))
    else:
        edit_lock(suite, lambda stages: stages["metrics"]["deps" if where == "input" else "outs"].append(entry))
    with pytest.raises(UserError, match="is not inside of this repository: nothing of it was read"):
        audit(suite)


@pytest.mark.parametrize("git", [False, True])
def test_a_suite_reaches_as_far_as_its_repository_or_unpacked_sources_do(made_by_hand: Path, tmp_path: Path, git: bool) -> None:
    """The sources' top is where the pipeline and the package lie; of two, the nearest."""
    for top in (tmp_path, tmp_path / "sources"):
        (top / "src/backtrail").mkdir(parents=True)
        (top / "dvc.yaml").touch()
    suite = tmp_path / "sources/suites/one"
    shutil.copytree(made_by_hand, suite, ignore=shutil.ignore_patterns(".git", "src"))
    if git:
        (tmp_path / "sources/.git").mkdir()
    edit_record(suite, "metrics", lambda record: record["inputs"].update({"../../src/backtrail": "0" * 64}))
    assert open_confined(suite).folder == suite
    edit_record(suite, "metrics", lambda record: record["inputs"].update({"../../../src/backtrail": "0" * 64}))
    with pytest.raises(UserError, match="is not inside of this repository: nothing of it was read"):
        open_confined(suite)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git archive needs a history")
def test_an_archive_of_the_sources_is_questioned_as_a_clone_is(tmp_path: Path) -> None:
    """As it is downloaded: without git, a suite's code is still a part of it."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(tmp_path, filter="data")
    found = why("reports/tables/results.csv:sfd,nfe=2,fd_efficientnet_lite0_mean", tmp_path)
    assert len(found["values"]) == 3 and found["verdict"] != BROKEN
    # `suites/study` has imported the same files: what made them is the suite that trained them.
    origins = {path.split("/")[1] for path in re.findall(r"suites/[\w-]+/results/", json.dumps(found))}
    assert origins == {"fashion-mnist-teacher"}
    done = audit(tmp_path / "suites/fashion-mnist-teacher")
    assert len(done.judged) > 100 and not [finding for finding in done.findings if finding.verdict == BROKEN]


@pytest.mark.parametrize("name", ["dvc.lock", "results/ledger.json", "results/records/teacher.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)], ids=["pipe", "folder", "device"])
def test_a_part_of_a_ledger_that_is_no_file_is_refused_at_once(suite: Path, name: str, make: Callable[[Path], None]) -> None:
    (suite / name).unlink(missing_ok=True)
    make(suite / name)
    started = time.process_time()
    with pytest.raises(UserError, match="expected a plain file"):
        open_confined(suite)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("name", ["dvc.lock", "dvc.yaml"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 50_000, "? " * 50_000, "{a: " * 25_000, "a: &a [*a]"], ids=["[", "-", "?", "{", "alias"]
)
def test_a_ledger_without_end_of_levels_is_refused(suite: Path, name: str, text: str) -> None:
    """Read whole by a parser in C, 100,000 brackets end the process without a word."""
    (suite / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="has aliases, or more than 64 levels"):
        open_confined(suite)


@pytest.mark.parametrize("text", ["stages: {a: {cmd: [x], outs: []}}", "stages: {a: {cmd: x, outs: [{path: 3}]}}", "stages: [a]", "3"])
def test_a_lock_that_is_none_is_one_sentence(suite: Path, text: str) -> None:
    (suite / "dvc.lock").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"dvc\.lock"):
        open_confined(suite)


@pytest.mark.parametrize("key", ["packages", "host", "device", "inputs", "outputs", "code"])
@pytest.mark.parametrize("value", [[1], "x", None, {"x": {"y": {}}}], ids=["list", "text", "nothing", "nested"])
def test_a_record_of_another_form_is_a_finding_and_no_traceback(suite: Path, key: str, value: Any) -> None:
    edit_record(suite, "metrics", lambda record: record.update({key: value}))
    assert (audit(suite).exit_code >= EXIT_CODES[UNBACKED]) == (value is not None or key != "device")


def test_what_dvcignore_hides_is_seen(suite: Path) -> None:
    (suite / "reports").mkdir()
    (suite / "reports/better.html").write_text("0.1", encoding="utf-8")
    (suite / ".dvcignore").write_text("better*\n", encoding="utf-8")
    (finding,) = audit(suite).findings
    assert finding.verdict == UNBACKED and finding.message == "reports/better.html: no stage made it"


def test_what_a_hostile_ledger_says_moves_no_terminal() -> None:
    line = plain("note: \x1b[2J\rverified\n0 broken \x9b2J \u202e\ud800")
    assert line.isprintable() and line.isascii() and line.startswith("note: \\x1b[2J\\rverified\\n")
    assert plain("Größe: 4.28") == "Größe: 4.28"


def test_a_forged_note_on_where_results_were_made_is_broken(suite: Path) -> None:
    (suite / RESULTS).parent.mkdir(parents=True)
    (suite / RESULTS).write_text("kind,method,nfe\n", encoding="utf-8")
    said = publish(suite)
    assert not [of for of in audit(suite).findings if FILE in of.subject]
    (suite / FILE).write_text(json.dumps({**said, "processors": ["NVIDIA H100"]}), encoding="utf-8")
    (finding,) = [of for of in audit(suite).findings if FILE in of.subject]
    assert finding.verdict == BROKEN and "processors NVIDIA H100; the records name Babbage's Engine" in finding.message


def test_a_run_is_not_held_against_results_that_their_own_commit_contradicts(suite: Path) -> None:
    """A spread that was made wide would let every run pass as a repetition."""
    (suite / LAST).write_text(json.dumps({"protocol": [], "values": {"heun": {"nfe34": {"fd": 1.25}}}}), encoding="utf-8")
    commit(suite, "better")
    with pytest.raises(UserError, match=f"{LAST} is not what its own dvc.lock names"):
        reproduced(suite, "HEAD")


def test_a_seed_of_one_part_that_was_changed_is_told(suite: Path) -> None:
    for seed in (0, 7):
        (suite / "params.yaml").write_text(as_yaml(PARAMS | {"teacher": {"steps": 3, "seed": seed}}), encoding="utf-8")
        commit(suite, f"teacher's seed {seed}")
    (line,) = dropped(open_ledger(suite))
    assert line.startswith("seed that params.yaml held and holds no more: teacher.seed = 0; commit ")


def test_a_seal_that_was_taken_away_is_told(suite: Path) -> None:
    for name in (SEAL, SIGNATURE):
        (suite / name).write_text("signed\n", encoding="utf-8")
    commit(suite, "sealed")
    subprocess.run(["git", "rm", "--quiet", SEAL, SIGNATURE], cwd=suite, check=True)
    commit(suite, "not sealed")
    (finding,) = audit(suite).findings
    assert finding.verdict == UNBACKED and "was signed in commit" in finding.message


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"values":' + '{"a":' * 3000 + "1" + "}" * 3001, '{"values": 1}', "[]", "3"],
    ids=["brackets", "levels", "a number", "a list", "no object"],
)
def test_a_metric_file_of_another_form_has_no_numbers(suite: Path, text: str) -> None:
    (suite / LAST).write_text(text, encoding="utf-8")
    assert audit(suite).judged == []


def test_what_a_suite_below_takes_over_is_no_stray_and_what_is_shown_here_is(suite: Path) -> None:
    """A teacher that is published here for another suite; a suite below is no way to show what no stage made."""
    for place in ("data/teachers/of-another", "reports/tables", "data/teachers/of-nobody"):
        (suite / place).mkdir(parents=True)
        (suite / place / "x.csv").write_text("fd\n1.0\n")
    for name, local in (("a", "data/teachers/of-another"), ("b", "reports/tables"), ("c", "results"), ("d", "data/..")):
        (suite / "suites" / name).mkdir(parents=True)
        values = {"suite": name, "teacher": {"local": f"../../{local}"}}
        (suite / "suites" / name / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    edit_lock(suite, lambda stages: stages["teacher"]["outs"].append({"path": "data/y", "hash": "md5", "md5": "0" * 32, "size": 1}))
    found = {finding.subject for finding in audit(suite).findings if "no stage made it" in finding.message}
    assert found == {"reports/tables/x.csv", "data/teachers/of-nobody/x.csv"}
