"""`backtrail export`: what it refuses before it writes anything."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from backtrail.cli import export
from backtrail.errors import UserError


def test_a_teacher_s_folder_is_not_signed_and_says_so_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(export, "export_teacher", lambda folder: written.append(folder) or [])
    with pytest.raises(UserError, match="--sign is for the export of a whole suite, not for --teacher"):
        CliRunner().invoke(export.command, [str(tmp_path / "out"), "--teacher", "--sign", "key"], catch_exceptions=False)
    assert not written
    CliRunner().invoke(export.command, [str(tmp_path / "out"), "--teacher"], catch_exceptions=False)
    assert written == [str(tmp_path / "out")]
