"""What git keeps of a suite, wherever in the repository the suite lies."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from backtrail.ledger.repository import code_at, file_at


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
    assert code_at(repository / suite, "HEAD", code) == {n: hashlib.sha256(text.encode()).hexdigest() for n, text in names.items()}
    assert file_at(repository / suite, "HEAD", "params.yaml") == f"{suite}/params.yaml".lstrip("/").encode()


def test_a_commit_or_a_folder_that_is_not_there_is_none(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert code_at(repository, "0" * 40, "src/package") is None and code_at(repository, "HEAD", "src/other") is None
    assert code_at(tmp_path_factory.mktemp("no repository"), "HEAD", "src") is None
