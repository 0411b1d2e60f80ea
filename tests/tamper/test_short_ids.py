"""Short ids: whatever digest is printed of a suite's files, `why` finds the file by its head, in each suite of the repository."""

import functools
import re
import shutil
from pathlib import Path

import pytest
import yaml

from backtrail.artifacts import file_digest, load_json
from backtrail.audit import ids
from backtrail.audit import why as why_module
from backtrail.audit.ids import by_id
from backtrail.audit.tree import main_line, tree
from backtrail.audit.why import why
from backtrail.errors import UserError
from backtrail.laid_down import ROOT
from backtrail.ledger.confined import open_confined
from backtrail.tables import load_csv

pytestmark = pytest.mark.xdist_group("tamper")
STUDENT = "results/students/disback/seed0/student.safetensors"


@pytest.mark.slow
def test_whatever_digest_why_prints_or_the_ledger_names_is_found_by_its_head(finished: Path) -> None:
    ledger = open_confined(finished)
    printed = {
        digest
        for line in tree(why("reports/tables/results.csv", finished))
        for digest in re.findall(r"(?:sha256|tensors) ([0-9a-f]{16})", line)
    }
    assert len(printed) > 30 and all(by_id(digest, ledger)[1] for digest in printed)
    stages = yaml.safe_load((finished / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    entries = [entry for stage in stages.values() for kind in ("deps", "outs") for entry in stage.get(kind, []) if "md5" in entry]
    assert all(entry["path"] in by_id(entry["md5"].removesuffix(".dir"), ledger)[1] for entry in entries)
    by_hand = load_json(finished / "results/records/fetch.json")["inputs"]
    assert {path: by_id(digest[:8], ledger)[1] for path, digest in by_hand.items()} == {path: [path] for path in by_hand}
    node = load_csv(finished / "results/paths/disback/seed0/path.csv")["digest"].iloc[0]
    assert by_id(node[:16], ledger)[1] == ["results/paths/disback/seed0"]


def test_an_id_that_begins_two_digests_is_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "digests", lambda _: {"0123456789": ["one"], "0123456701": ["other"]})
    with pytest.raises(UserError, match="01234567 is the short id of 2 files; it begins the digests of one, other: add digits"):
        by_id("01234567", open_confined(finished))
    assert by_id("0123456701", open_confined(finished))[1] == ["other"]


def test_an_id_of_another_suite_is_answered_with_its_chain(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the repository's own folder, which may have run nothing yet, and from any of its suites."""
    suite, new = tmp_path / "suites/origin", tmp_path / "suites/new"
    shutil.copytree(finished, suite, ignore=shutil.ignore_patterns(".git", ".dvc"))
    new.mkdir()
    for module in (ids, why_module):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    why_module.made_in_suites.cache_clear()
    name = file_digest(suite / STUDENT)[:12]
    for folder in (tmp_path, new):
        found = why(name, folder)
        assert (found["suite"], found["chain"][0]["path"]) == ("suites/origin", f"suites/origin/{STUDENT}")
        assert next(main_line(found)) == f"{name} is of the suite in suites/origin; paths are from the repository's folder"
    assert "suite" not in (own := why(name, suite)) and own["chain"][0]["path"] == STUDENT
    why_module.made_in_suites.cache_clear()


def test_an_id_in_a_committed_picture_is_found_or_said_to_be_of_a_suite_whose_ledger_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "open_confined", functools.cache(open_confined))  # each ledger is read once for all pictures
    pictures, answered = sorted(ROOT.glob("suites/*/reports/**/*.png")), {True: 0, False: 0}
    for picture in pictures:
        name = re.search(rb"backtrail why ([0-9a-f]{12})", picture.read_bytes())[1].decode()
        suite = next(above for above in picture.parents if above.parent == ROOT / "suites")
        has_ledger = (suite / "dvc.lock").is_file()
        if has_ledger:
            ledger, (path,) = by_id(name, ids.open_confined(suite))
            assert ledger.folder / path == picture.with_suffix(".csv")
            elsewhere, (same,) = by_id(name, ids.open_confined(ROOT))  # two suites may have made the same bytes
            assert elsewhere.makers[same].outs[same].md5 == ledger.makers[path].outs[path].md5
        elif not answered[False]:  # each takes a second
            place, file = suite.relative_to(ROOT), re.escape(str(picture.relative_to(ROOT)))
            cure = f"the ledger of {place} is not here; `snakemake -d {place} --profile local` runs that suite"
            for folder in (ROOT, suite):
                with pytest.raises(UserError, match=f"{name} is the short id of no file .*: {file} carries it, and {cure}"):
                    why(name, folder)
        answered[has_ledger] += 1
    assert answered[True]
