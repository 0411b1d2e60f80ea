"""Somebody else's suite, made to harm whoever audits it: whatever it could have executed leaves a canary, and there must be none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backtrail.audit.audit import Audit, audit
from backtrail.audit.compare import compare
from backtrail.audit.findings import BROKEN, STALE, UNBACKED
from backtrail.audit.impact import impact
from backtrail.audit.records import other_environment
from backtrail.audit.why import why
from backtrail.errors import UserError
from backtrail.ledger.ledger import open_ledger
from backtrail.ledger.repository import changed_since_commit, code_at, file_at, holds
from tamper.forging import edit_record, rewrite_lock_only
from tamper.hand_made import CODE, LAST, environment
from tamper.repository import commit

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that is not there, as long as nothing executes what it should not."""
    return tmp_path / "CANARY"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def told(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user types it, `python -m` with the suite's folder first on the path being the least safe way."""
    command = [sys.executable, "-m", "backtrail", *arguments]
    return subprocess.run(command, cwd=folder, env=environment() | {"PYTHONPATH": str(SOURCE), **more}, capture_output=True, text=True)


def subjects(done: Audit) -> dict[str, str]:
    return {finding.subject: finding.verdict for finding in done.findings}


def test_the_untouched_suite_is_verified(suite: Path) -> None:
    done = audit(suite)
    assert done.findings == [] and done.exit_code == 0 and [one.number.text for one in done.judged] == ["4.25"]
    assert done.notes == ["nobody has signed this ledger: `backtrail export FOLDER --sign KEY`"]


# ------------------------------------------------------------------------------------------------ what git could be made to execute


def fsmonitor(folder: Path, canary: Path) -> None:
    git(folder, "config", "core.fsmonitor", f"touch {canary}; false")


def hook(folder: Path, canary: Path) -> None:
    for name in ("post-index-change", "post-checkout", "reference-transaction"):
        script = folder / ".git/hooks" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\ntouch {canary}\n")
        script.chmod(0o755)


def filters(folder: Path, canary: Path) -> None:
    (folder / ".gitattributes").write_text("* filter=evil diff=evil\n")
    commit(folder, "attributes")
    for key in (
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "diff.evil.textconv",
        "diff.evil.command",
        "diff.external",
    ):
        git(folder, "config", key, f"sh -c 'touch {canary}; cat'")
    for path in (folder / "src").rglob("*.py"):
        path.touch()


def programs(folder: Path, canary: Path) -> None:
    for key in ("core.pager", "core.sshCommand", "core.gitProxy", "core.askPass", "core.editor", "gpg.program", "credential.helper"):
        git(folder, "config", key, f"touch {canary}; false")
    git(folder, "config", "log.showSignature", "true")
    git(folder, "config", "alias.cat-file", f"!touch {canary}")


def promisor(folder: Path, canary: Path) -> None:
    """A partial clone that lacks an object asks its server for it, by a command of the suite's choice."""
    git(folder, "config", "remote.origin.url", f"ext::sh -c 'touch {canary}'")
    git(folder, "config", "remote.origin.promisor", "true")
    git(folder, "config", "extensions.partialClone", "origin")
    git(folder, "config", "protocol.ext.allow", "always")
    name = git(folder, "rev-parse", "HEAD:src/backtrail/errors.py")
    (folder / f".git/objects/{name[:2]}/{name[2:]}").unlink()
    edit_record(folder, "teacher", lambda record: record.update(commit="f" * 40))


@pytest.mark.parametrize("attack", [fsmonitor, hook, filters, programs, promisor])
def test_nothing_that_the_suite_s_repository_names_is_executed(suite: Path, canary: Path, attack) -> None:
    attack(suite, canary)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(suite)
        audit(suite)
        why(LAST, suite)
        compare("HEAD", str(suite), suite)
    assert not canary.exists()


def test_the_canary_would_have_sung(suite: Path, canary: Path) -> None:
    """The attacks above are real: git as it is by default executes them."""
    filters(suite, canary)
    subprocess.run(["git", "status"], cwd=suite, capture_output=True)
    assert canary.exists()


@pytest.mark.parametrize(
    "name", ["--output=CANARY", "--remote=ext::touch CANARY", "HEAD\n--output=CANARY", "HEAD:params.yaml", "-h", "@{upstream}", ""]
)
def test_a_commit_that_is_no_commit_is_unbacked_and_reaches_no_command_line(suite: Path, name: str) -> None:
    (suite / "CANARY").write_text("whole")
    edit_record(suite, "teacher", lambda record: record.update(commit=name))
    done = audit(suite)
    assert (suite / "CANARY").read_text(encoding="utf-8") == "whole"
    assert subjects(done)["stage:teacher"] == UNBACKED and {one.verdict for one in done.judged} == {UNBACKED}
    with pytest.raises(UserError, match="neither a folder nor a git revision"):
        compare(name or "x", str(suite), suite)


@pytest.mark.parametrize("name", ["f" * 40, "0" * 40])
def test_a_commit_that_git_does_not_hold_is_unbacked(suite: Path, name: str) -> None:
    edit_record(suite, "teacher", lambda record: record.update(commit=name))
    done = audit(suite)
    assert subjects(done)["stage:teacher"] == UNBACKED and done.exit_code == 20


def test_a_replaced_commit_is_read_as_it_is(suite: Path) -> None:
    """`git replace` puts another tree under the name of the commit that the records name: forged code would stand in it."""
    named = git(suite, "rev-parse", "HEAD~1")
    forged = CODE["errors.py"] + "BETTER = True\n"
    (suite / "src/backtrail/errors.py").write_text(forged)
    commit(suite, "better numbers")
    git(suite, "replace", named, git(suite, "rev-parse", "HEAD"))
    assert "BETTER" in git(suite, "show", f"{named}:src/backtrail/errors.py")
    assert file_at(suite, named, "src/backtrail/errors.py") == CODE["errors.py"].encode()


def test_an_object_whose_content_is_not_what_its_name_says_is_none(suite: Path) -> None:
    name, other = (git(suite, "rev-parse", f"HEAD:{path}") for path in ("src/backtrail/errors.py", "src/backtrail/deeper/more.py"))
    place, forged = (suite / f".git/objects/{of[:2]}/{of[2:]}" for of in (name, other))
    place.unlink()
    shutil.copy(forged, place)
    assert file_at(suite, "HEAD", "src/backtrail/errors.py") is None
    assert file_at(suite, "HEAD", "src/backtrail/deeper/more.py") == b"X = 1\n"


def test_variables_of_the_environment_lead_git_nowhere_else(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git(suite, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "nonsense")
    assert holds(suite, head) and code_at(suite, "HEAD", "src/backtrail").keys() == CODE.keys()


# ------------------------------------------------------------------------------------------------ what Python could be made to import


@pytest.mark.parametrize("name", ["grimp", "yaml", "numpy", "matplotlib", "torch"])
def test_a_module_in_the_suite_s_folder_is_not_imported(suite: Path, canary: Path, name: str) -> None:
    (suite / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')\nraise ImportError\n")
    done = told(suite, "audit")
    assert "1 verified" in done.stdout and not canary.exists(), done.stderr


def test_the_stage_level_runs_the_suite_s_package_and_nothing_beside_it(suite: Path, canary: Path) -> None:
    """Beside the package too, where Python would find it when the suite's own code runs."""
    for place in (suite, suite / "src"):
        (place / "grimp.py").write_text(f"open({str(canary)!r}, 'w')\nraise ImportError\n")
    done = told(suite, "audit", "--level", "stage", SECRET_TOKEN="hunter2hunter2")
    assert done.stdout.count("1 of 1 outputs the same") == 2 and done.returncode == 0, done.stdout + done.stderr
    assert not canary.exists()
    assert "the stage level executes the suite's own code" in done.stderr.splitlines()[0]


@pytest.mark.slow
def test_matplotlib_s_file_in_the_suite_s_folder_is_not_read(suite: Path, canary: Path) -> None:
    (suite / "matplotlibrc").write_text("backend: module://evil\n")
    (suite / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    done = told(suite, "audit", "--level", "figure")
    assert "what this shows:" in done.stdout and not canary.exists(), done.stderr


def test_a_stage_whose_command_line_is_another_s_is_not_run(suite: Path, canary: Path) -> None:
    lock = (suite / "dvc.lock").read_text(encoding="utf-8")
    (suite / "dvc.lock").write_text(lock.replace("cmd: python src/backtrail teacher", f"cmd: touch {canary}"))
    done = told(suite, "audit", "--level", "stage", "--stage", "teacher")
    assert not canary.exists() and "its command line is" in done.stdout and done.returncode == 30


# ------------------------------------------------------------------------------------------------ the ledger in the form of fingerprints


def test_a_comment_is_no_change_and_a_line_of_code_is_one_that_names_its_file(suite: Path) -> None:
    source = suite / "src/backtrail/errors.py"
    source.write_text("# a comment\n\n" + CODE["errors.py"].replace("\n", "\r\n"))
    assert audit(suite).findings == []
    source.write_text(CODE["errors.py"] + "X = 2\n")
    (finding,) = audit(suite).findings
    assert finding.verdict == STALE and finding.subject == "stage:teacher" and "errors.py has changed" in finding.message
    assert finding.link == "src/backtrail/errors.py -> teacher"


def test_impact_of_a_source_file_is_that_of_the_records_that_name_it(suite: Path) -> None:
    assert impact("src/backtrail/deeper/more.py", suite)["stages"] == ["metrics"]
    assert impact("src/backtrail/errors.py", suite)["stages"] == ["teacher", "metrics"]
    assert impact("src/backtrail", suite)["stages"] == ["teacher", "metrics"]
    with pytest.raises(UserError, match="no stage of this suite"):
        impact("src/backtrail/none.py", suite)


def test_a_record_that_names_other_code_than_the_lock_is_broken(suite: Path) -> None:
    edit_record(suite, "teacher", lambda record: record["code"].update({"errors.py": "0" * 64}))
    assert subjects(audit(suite))["stage:teacher"] == BROKEN


def test_code_that_was_never_committed_is_found_by_its_text(suite: Path) -> None:
    """Code, record, code.yaml and lock all say the same, and no commit holds it."""
    from backtrail.ledger.fingerprints import digest_of, text_fingerprint

    forged = CODE["errors.py"] + "BETTER = True\n"
    (suite / "src/backtrail/errors.py").write_text(forged)
    before = json.loads((suite / "results/records/teacher.json").read_text(encoding="utf-8"))["code"]
    after = before | {"errors.py": text_fingerprint("errors.py", forged.encode())}
    edit_record(suite, "teacher", lambda record: record.update(code=after))
    lock = (suite / "dvc.lock").read_text(encoding="utf-8").replace(digest_of(before), digest_of(after))
    (suite / "dvc.lock").write_text(lock)
    (finding,) = audit(suite).findings
    assert finding.verdict == BROKEN and "stands neither in commit" in finding.message and "errors.py" in finding.message


def test_another_environment_is_said_and_no_verdict_hangs_on_it(suite: Path) -> None:
    (suite / "requirements.lock").write_text("torch==3.0\n")
    (said,) = other_environment(open_ledger(suite))
    assert said.startswith("other environment: 2 of 2 stages") and "torch 2.0 then" in said
    done = audit(suite)
    assert done.exit_code == 0 and said in done.notes


def test_what_is_not_committed_is_said(suite: Path) -> None:
    (suite / "dvc.yaml").write_text((suite / "dvc.yaml").read_text(encoding="utf-8") + "# more\n")
    assert changed_since_commit(suite, ("dvc.yaml", "results", "src/backtrail")) == ["dvc.yaml"]
    (suite / LAST).unlink()
    assert changed_since_commit(suite, ("dvc.yaml", "results")) == ["dvc.yaml", LAST]


def test_a_run_on_another_processor_is_told_as_that_and_not_as_code(suite: Path) -> None:
    """The committed run's records are not at hand; the results differ, and command, parameters, code and inputs do not."""
    shutil.rmtree(suite / "results/records")
    (suite / ".gitignore").write_text("results/records\n")
    git(suite, "rm", "-rq", "--cached", "results/records")
    commit(suite, "records are not in git")
    before = git(suite, "rev-parse", "HEAD")
    shutil.copytree(suite.parents[0] / "suite", suite.parents[0] / "other")
    other = suite.parents[0] / "other"
    for stage in ("teacher", "metrics"):
        path = other / f"results/records/{stage}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(git(suite, "show", f"HEAD~1:results/records/{stage}.json"))
    (other / LAST).write_text((other / LAST).read_text(encoding="utf-8").replace("4.25", "4.26"))
    rewrite_lock_only(other)
    found = compare(before, str(other), suite)
    (part,) = found["parted"]
    (reason,) = part["reasons"]
    assert part["stage"] == "metrics" and "another processor" in reason and "Babbage's Engine" in reason and "code:" not in reason


# ------------------------------------------------------------------------------------------------ what is left out


def drop(folder: Path, stage: str) -> None:
    import yaml

    lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))
    del lock["stages"][stage]
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))


def test_a_stage_that_is_declared_and_did_not_run_is_unbacked_with_all_that_rests_on_it(suite: Path) -> None:
    """The teacher's stage taken out of the lock, and its files named in .dvcignore, so that they are no strays."""
    drop(suite, "teacher")
    (suite / ".dvcignore").write_text("teacher*\n")
    done = audit(suite)
    found = {finding.subject: finding for finding in done.findings}
    assert found["dvc.lock"].verdict == UNBACKED and "lacks: teacher" in found["dvc.lock"].message
    assert found["results/teacher/teacher.safetensors"].verdict == UNBACKED
    assert done.exit_code == 20 and {one.verdict for one in done.judged} == {UNBACKED}


@pytest.mark.parametrize("lines", [-1, -3, "stage"])
def test_a_lock_that_is_cut_is_called_cut(suite: Path, lines: int | str) -> None:
    text = (suite / "dvc.lock").read_text(encoding="utf-8")
    cut = text[: text.index("  metrics:\n")] if lines == "stage" else "".join(text.splitlines(keepends=True)[:lines])
    (suite / "dvc.lock").write_text(cut)
    done = audit(suite)
    assert subjects(done)["dvc.lock"] == BROKEN and any("dvc.lock is cut" in finding.message for finding in done.findings)


def test_an_audit_ends_with_what_it_shows_and_what_it_does_not(suite: Path) -> None:
    text = told(suite, "audit").stdout
    head, _, end = text.partition("what this shows:")
    assert "It trusts the ledger" in end and all(f"{level}: not run" in end for level in ("metric", "figure", "stage"))
    assert os.linesep in head
