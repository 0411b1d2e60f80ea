"""A teacher that a suite trained, published with its card, and imported by another suite: the chain goes on into the first one."""

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml

from backtrail import layout
from backtrail.artifacts import file_digest, load_json
from backtrail.audit import why as why_module
from backtrail.audit.why import elsewhere
from backtrail.data.dataset import load_dataset
from backtrail.data.fetched_folder import fetch_outside
from backtrail.data.sources import source_of_teacher
from backtrail.errors import UserError
from backtrail.export import teacher as teacher_module
from backtrail.export.teacher import export_teacher
from backtrail.metrics.classifier import import_classifier
from backtrail.teachers.imported import import_teacher
from tamper.forging import flip
from unit.refusals import as_yaml

pytestmark = pytest.mark.xdist_group("tamper")


def test_what_is_published_is_what_a_suite_imports(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    assert export_teacher(folder, finished) == ["teacher.safetensors", "classifier.safetensors", "README.md"]
    export_teacher(folder, finished)  # once more
    card = (folder / "README.md").read_text(encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("# Mine\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"README\.md is there and no card of a teacher"):
        export_teacher(tmp_path / "mine", finished)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["README.md"]
    listed = fetch_outside(tmp_path / "data", [source_of_teacher("own-backtrail", str(folder))], str(folder))["files"]
    assert [of["name"] for of in listed] == ["teacher.safetensors", "classifier.safetensors"]
    for file in listed:
        assert file["sha256"] == file_digest(folder / file["name"]) and f"{file['name']}: {file['sha256']}" in card
    measured = load_json(finished / layout.metrics())["values"]
    assert all(f"| {sampler} | {nfe.removeprefix('nfe')} | " in card for sampler, by_nfe in measured.items() for nfe in by_nfe)
    assert "commit `" in card and "licence: yours to know" in card
    teacher, dataset = import_teacher("own-backtrail", tmp_path / "data"), load_dataset(finished / layout.DATASET)
    assert teacher.image_shape == tuple(dataset.train_images.shape[1:])
    import_classifier(tmp_path / "data/classifier.safetensors", dataset.digest)
    with pytest.raises(UserError, match="another data set"):
        import_classifier(tmp_path / "data/classifier.safetensors", "0" * 64)


@pytest.mark.parametrize("name", ["teacher.safetensors", "classifier.safetensors", "README.md"])
def test_what_another_wrote_is_not_overwritten(name: str, finished: Path, tmp_path: Path) -> None:
    """Neither in a folder without a card nor in this suite's own export, where another file has taken the place of one."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_bytes(b"mine")
    words = "README.md is there and no card of a teacher of suite" if name == "README.md" else f"{name} is there and was not exported by"
    for beside in ([name], ["README.md", "classifier.safetensors", "teacher.safetensors"]):
        with pytest.raises(UserError, match=words) as error:
            export_teacher(folder, finished)
        assert "\n" not in str(error.value) and (folder / name).read_bytes() == b"mine"
        assert sorted(path.name for path in folder.iterdir()) == beside
        shutil.rmtree(folder)
        export_teacher(folder, finished)
        (folder / name).write_bytes(b"mine")


def test_an_earlier_export_of_this_suite_alone_is_renewed(finished: Path, ledger: Path, tmp_path: Path) -> None:
    """An earlier one has other bytes, which its card says; one that was cut short has none yet, and the bytes that are to be."""
    folder = tmp_path / "published"
    export_teacher(folder, finished)
    card, teacher = (folder / "README.md").read_text(encoding="utf-8"), (folder / "teacher.safetensors").read_bytes()
    (folder / "README.md").unlink()
    export_teacher(folder, finished)
    (folder / "teacher.safetensors").write_bytes(b"earlier")
    earlier = card.replace(hashlib.sha256(teacher).hexdigest(), hashlib.sha256(b"earlier").hexdigest())
    (folder / "README.md").write_text(earlier, encoding="utf-8")
    export_teacher(folder, finished)
    assert (folder / "teacher.safetensors").read_bytes() == teacher and (folder / "README.md").read_text(encoding="utf-8") == card
    suite = yaml.safe_load((finished / "params.yaml").read_text(encoding="utf-8"))["suite"]
    other = card.replace(f"# The teacher of the suite `{suite}`", "# The teacher of the suite `another`")
    (folder / "README.md").write_text(other, encoding="utf-8")
    with pytest.raises(UserError, match=f"README.md is there and no card of a teacher of suite {suite}: name another folder"):
        export_teacher(folder, finished)
    assert (folder / "README.md").read_text(encoding="utf-8") == other != card


def test_a_card_names_the_folder_where_it_lies(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the repository where it lies there, whichever folder it was named from; else as it was given."""

    def local(folder: Path | str) -> str:
        export_teacher(folder, finished)
        card = (Path(folder) / "README.md").read_text(encoding="utf-8")
        return yaml.safe_load(card[card.index("```yaml") + 7 : card.index("```\n\n## Quality")])["teacher"]["local"]

    (tmp_path / "repository/suites/one").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repository/suites/one")
    monkeypatch.setattr(teacher_module, "ROOT", tmp_path / "repository")
    assert local("../../teachers/mine") == "teachers/mine"
    assert local(tmp_path / "repository/suites/one/export") == "suites/one/export"
    assert local("../../123") == "123"
    assert local(tmp_path / "out: here #1") == str(tmp_path / "out: here #1")
    assert local("../../../out") == "../../../out"


def test_what_a_suite_imported_is_published_by_the_suite_that_trained_it(ledger: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((ledger / "params.yaml").read_text(encoding="utf-8"))
    values["teacher"] = {"source": "own-edm", "local": "images"}
    (ledger / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    with pytest.raises(UserError, match="this suite imports its teacher: publish from the suite that trained them"):
        export_teacher(tmp_path / "published", ledger)


def test_bytes_that_are_not_the_ledgers_are_not_published(ledger: Path, tmp_path: Path) -> None:
    flip(ledger / layout.TEACHER)
    with pytest.raises(UserError, match=f"{layout.TEACHER} is not here as this suite's ledger has it"):
        export_teacher(tmp_path / "published", ledger)
    assert not (tmp_path / "published").exists()


def test_the_chain_of_an_imported_teacher_goes_on_in_the_suite_that_trained_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "suites/origin"
    shutil.copytree(finished, suite, ignore=shutil.ignore_patterns(".git", ".dvc", "src"))
    monkeypatch.setattr(why_module, "ROOT", tmp_path)
    why_module.made_in_suites.cache_clear()
    digest = file_digest(suite / layout.TEACHER)
    (chain,) = elsewhere(digest, finished)
    assert (chain["path"], chain["stage"], chain["sha256"]) == (f"suites/origin/{layout.TEACHER}", "teacher", digest)
    assert f"suites/origin/{layout.DATASET}" in [source["path"] for source in chain["from"]]
    assert elsewhere(digest, suite) == [] == elsewhere("0" * 64, finished)
    why_module.made_in_suites.cache_clear()
