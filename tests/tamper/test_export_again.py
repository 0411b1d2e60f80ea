"""An export that fails leaves nothing in its place, so that the same command can be given again."""

from pathlib import Path

import pytest

from backtrail.errors import UserError
from backtrail.export import crate
from backtrail.export.crate import Programs, export
from backtrail.ledger.seal import SEAL

pytestmark = pytest.mark.xdist_group("tamper")


@pytest.fixture(autouse=True)
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The students as programs take ten seconds, and are no part of what fails here."""
    monkeypatch.setattr(Programs, "write", lambda *_: None)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fails", ["the signature", "an interrupt"])
def test_what_fails_leaves_no_folder_and_can_be_given_again(
    finished: Path, tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("none\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        if fails == "an interrupt":
            patch.setattr(crate, "sign", interrupted)
        with pytest.raises(UserError if fails == "the signature" else KeyboardInterrupt):
            export(tmp_path / "crate", finished, str(tmp_path / "key"))
    assert [path.name for path in tmp_path.iterdir()] == ["key"] and not (finished / SEAL).exists()
    files = export(tmp_path / "crate", finished)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crate", "key"]
    assert files == sorted(path.relative_to(tmp_path / "crate").as_posix() for path in (tmp_path / "crate").rglob("*") if path.is_file())
    (tmp_path / "as others").mkdir()
    assert (tmp_path / "crate").stat().st_mode == (tmp_path / "as others").stat().st_mode
