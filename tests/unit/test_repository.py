"""What git keeps of a suite, wherever in the repository the suite lies."""

import subprocess
from pathlib import Path

import pytest

from backtrail.ledger.fingerprints import text_fingerprint
from backtrail.ledger.repository import code_at, file_at, holds, nameless, silence


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("src/package/a.py", "src/package/deeper/b.py", "suites/one/params.yaml", "params.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    as_someone = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "--quiet"), ("add", "--all"), (*as_someone, "commit", "--quiet", "--message", "all")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize(("suite", "code"), [("", "src/package"), ("suites/one", "../../src/package")])
def test_the_code_of_a_commit_is_found_from_each_suite(repository: Path, suite: str, code: str) -> None:
    (repository / "src/package/a.py").write_text("changed since", encoding="utf-8")
    names = {"a.py": "src/package/a.py", "deeper/b.py": "src/package/deeper/b.py"}
    assert code_at(repository / suite, "HEAD", code) == {n: text_fingerprint(n, text.encode()) for n, text in names.items()}
    assert file_at(repository / suite, "HEAD", "params.yaml") == f"{suite}/params.yaml".lstrip("/").encode()


def test_what_git_says_of_a_file_is_what_is_read(repository: Path) -> None:
    """Against `git show`, for a branch, a tag, an older revision and a whole name."""
    subprocess.run(["git", "tag", "v1"], cwd=repository, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True).stdout.strip()
    for name in ("HEAD", "v1", head, head[:10]):
        shown = subprocess.run(["git", "show", f"{name}:suites/one/params.yaml"], cwd=repository, check=True, capture_output=True).stdout
        assert file_at(repository / "suites/one", name, "params.yaml") == shown
    assert holds(repository, head) and not holds(repository, head[:10]) and not holds(repository, "HEAD")


def test_a_commit_or_a_folder_that_is_not_there_is_none(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert code_at(repository, "0" * 40, "src/package") is None and code_at(repository, "HEAD", "src/other") is None
    assert code_at(tmp_path_factory.mktemp("no repository"), "HEAD", "src") is None


def test_why_git_is_silent_is_said_as_it_is(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path_factory.mktemp("no repository")
    assert silence(repository / "suites/one") is None and silence(outside) == "the suite lies in no git repository"
    subprocess.run(["git", "init", "--quiet"], cwd=outside, check=True)
    assert silence(outside) == "git finds no commit here (none has been made yet, or .git is damaged)"
    (outside / ".git/HEAD").unlink()
    assert "not a git repository" in silence(outside)
    monkeypatch.setenv("PATH", "")
    assert silence(repository) == "git finds no commit here (git is not installed)"


def test_whose_records_would_name_no_commit_is_told_how_to_mend_it(
    repository: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path_factory.mktemp("archive")
    assert nameless(repository / "src") is None
    assert nameless(outside).startswith(
        "there is no git history here, as in an archive of the sources: records of stages would name no commit"
    )
    subprocess.run(["git", "init", "--quiet"], cwd=outside, check=True)
    assert nameless(outside).startswith("git finds no commit here") and "`git add --all`" in nameless(outside)
    monkeypatch.setenv("PATH", "")
    assert nameless(repository).startswith("git is not installed: ")


def test_a_repository_of_another_user_is_said_to_be_one(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`git` refuses it; the audit, which asks for objects by name alone, reads it."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    sentence = nameless(repository / "src")
    assert sentence.startswith(f"git does not read {repository}, which belongs to another user: records of stages would name no commit")
    assert f"`git config --global --add safe.directory {repository}`" in sentence
    assert silence(repository) is None and file_at(repository, "HEAD", "params.yaml") == b"params.yaml"
