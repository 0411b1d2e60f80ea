"""What an audit can say of a clone without any data: everything but the bytes that are not there, and which those are."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backtrail.audit.audit import audit
from backtrail.audit.compare import compare
from backtrail.audit.findings import ABSENT, BROKEN, EXIT_CODES, EXTERNAL, UNBACKED
from backtrail.ledger.gathered import gather, gathered
from backtrail.ledger.hashes import Hashes
from backtrail.ledger.ledger import open_ledger
from tamper.forging import edit_lock, replace
from tamper.repository import commit

pytestmark = pytest.mark.xdist_group("tamper")
LEDGER, TEACHER = "results/ledger.json", "results/teacher/teacher.safetensors"


@pytest.fixture
def clone(finished: Path, tmp_path: Path) -> Path:
    """The finished suite as git has it; what DVC keeps out of git is not there."""
    subprocess.run(["git", "clone", "--quiet", str(finished), str(tmp_path / "clone")], check=True)
    return tmp_path / "clone"


def rewrite(folder: Path, stage: str, old: str, new: str) -> None:
    """One record in the file that git keeps changed, and dvc.lock made to fit it in every digest."""
    for path, content in gathered((folder / LEDGER).read_text(encoding="utf-8")).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    replace(folder / f"results/records/{stage}.json", old, new)
    gather(folder)
    hashes = Hashes(folder)

    def fit(stages: dict[str, Any]) -> None:
        entries = [entry for of in stages.values() for entry in [*of.get("deps", []), *of["outs"]]]
        for entry in entries:
            if entry["path"].startswith("results/records") or entry["path"] == LEDGER:
                digest = hashes.of(entry["path"])
                assert digest is not None
                entry |= {"md5": digest.md5, "size": digest.size_bytes}

    edit_lock(folder, fit)
    shutil.rmtree(folder / "results/records")


def test_a_clone_is_checked_but_for_the_bytes_that_are_not_there(clone: Path) -> None:
    assert not (clone / TEACHER).exists() and not list((clone / "results/records").glob("*.json"))
    done = audit(clone)
    assert done.exit_code == EXIT_CODES[ABSENT] == 8
    assert {finding.verdict for finding in done.findings} == {ABSENT} and all(finding.absent for finding in done.findings)
    assert {one.verdict for one in done.judged} <= {ABSENT, EXTERNAL} and len(done.judged) > 200
    missing = {finding.subject for finding in done.findings}
    assert TEACHER in missing and not [path for path in missing if path.startswith("results/records") or (clone / path).exists()]
    assert sum(finding.size_bytes for finding in done.findings) > 1e5
    ledger = open_ledger(clone)
    assert all(ledger.records[name] for name, stage in ledger.stages.items() if not stage.keeps_books)


def test_a_history_that_was_squashed_is_no_clone_that_lacks_commits(suite: Path) -> None:
    """The commit that the records name is nowhere, and no command brings it."""
    shutil.rmtree(suite / ".git")
    subprocess.run(["git", "init", "--quiet", "."], cwd=suite, check=True)
    commit(suite, "everything at once")
    found = [finding for finding in audit(suite).findings if "is none that this repository holds" in finding.message]
    assert found and {finding.cure for finding in found} == {""}


def test_what_a_partial_clone_lacks_is_not_here_and_was_not_forged(suite: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "config", "uploadpack.allowFilter", "true"], cwd=suite, check=True)
    source = next((suite / "src").rglob("*.py"))
    source.write_text(source.read_text(encoding="utf-8") + "\nMORE = 1\n", encoding="utf-8")
    commit(suite, "code that has changed since")
    assert BROKEN not in {finding.verdict for finding in audit(suite).findings}
    clone = ["git", "clone", "--quiet", "--filter=blob:none", f"file://{suite}", str(tmp_path / "clone")]
    subprocess.run(clone, check=True)
    found = [finding for finding in audit(tmp_path / "clone").findings if finding.link.startswith("commit -> ")]
    assert found and {(finding.absent, finding.cure) for finding in found} == {(True, "git fetch --refetch")}


def test_without_the_file_of_records_a_clone_is_unbacked(clone: Path) -> None:
    """As it was for everybody who had only cloned a suite."""
    (clone / LEDGER).unlink()
    done = audit(clone)
    assert done.exit_code == 20 and {one.verdict for one in done.judged} <= {UNBACKED, EXTERNAL}


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (lambda f: replace(f / LEDGER, '"steps":30', '"steps":31'), "results/ledger.json: md5"),
        (lambda f: replace(f / LEDGER, '"steps":30', '"steps":31'), "results/ledger.json has another record than dvc.lock"),
        (lambda f: rewrite(f, "teacher", '"steps": 30', '"steps": 31'), "results/records/teacher.json says 31"),
        (lambda f: rewrite(f, "teacher", teacher_digest(f), "0" * 64), f"by its own, teacher made {'0' * 64}"),
        (lambda f: replace(f / "results/metrics/disback/seed0.json", '"fd_classifier": ', '"fd_classifier": 1'), "seed0.json: md5"),
    ],
    ids=["file of records", "a record in it", "parameter", "between two records", "metric"],
)
def test_what_is_forged_is_found_in_a_clone_without_data(clone: Path, forge: Any, message: str) -> None:
    forge(clone)
    done = audit(clone)
    assert done.exit_code == EXIT_CODES[BROKEN]
    assert any(message in finding.message and finding.verdict == BROKEN for finding in done.findings), done.findings


def teacher_digest(folder: Path) -> str:
    record = json.loads(gathered((folder / LEDGER).read_text(encoding="utf-8"))["results/records/teacher.json"])
    return record["outputs"][TEACHER]


def test_records_are_given_back_byte_for_byte_and_gathered_to_the_same_bytes(ledger: Path) -> None:
    before = (ledger / LEDGER).read_bytes()
    records = {f"results/records/{path.name}": path.read_bytes() for path in (ledger / "results/records").glob("*.json")}
    assert gathered(before.decode()) == records and len(records) > 25
    assert len(before) < 0.6 * sum(map(len, records.values()))  # 0.87 of it with nothing shared, and less with every further stage
    gather(ledger)
    assert (ledger / LEDGER).read_bytes() == before


@pytest.mark.parametrize(
    "text", ["", "[]", '{"records": {"a": 1}, "shared": {}}', '{"records": {"a": {"own": {}, "shared": {"x": "y"}}}}', "[" * 10**6]
)
def test_a_file_that_is_none_of_records_gives_none(text: str) -> None:
    assert gathered(text) == {}


def test_two_commits_are_compared_where_no_record_lies(clone: Path, finished: Path) -> None:
    """The reason is in the records of both: another version of a package."""
    rewrite(clone, "teacher", '"torch": "', '"torch": "0.')

    def change(stages: dict[str, Any]) -> None:
        next(out for out in stages["teacher"]["outs"] if out["path"] == TEACHER)["md5"] = "0" * 32

    edit_lock(clone, change)
    commit(clone, "another torch")
    before = os.getcwd()
    os.chdir(clone)
    try:
        (parted,) = compare("HEAD~1", "HEAD", clone)["parted"]
    finally:
        os.chdir(before)
    assert parted["stage"] == "teacher" and [reason for reason in parted["reasons"] if reason.startswith("packages.torch: ")]
