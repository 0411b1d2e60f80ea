"""Ways past the audit that leave every digest right: each is named, and what an honest user does that looks alike is not."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from backtrail.artifacts import load_json
from backtrail.audit.audit import Audit
from backtrail.audit.audit import audit as plain_audit
from backtrail.audit.findings import BROKEN, UNBACKED
from backtrail.audit.runs import open_run
from backtrail.cli.quote import TEXTS
from backtrail.errors import UserError
from backtrail.report.statements import STATEMENTS
from tamper.hand_made import LAST
from tamper.repository import commit

pytestmark = pytest.mark.xdist_group("tamper")
CLAIMS = "reports/tables/claims.csv"


def audit(folder: Path) -> Audit:
    """As the command does it, with what quotes whole texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return plain_audit(".", (), list(STATEMENTS), TEXTS)


def relock(folder: Path, change: Callable[[dict], None]) -> None:
    lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))
    change(lock["stages"])
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def made_beside(stage: str, path: str) -> Callable[[Path], None]:
    """A number forged, and its stage said to keep the books, which is checked otherwise."""

    def forge(folder: Path) -> None:
        write(folder, LAST, (folder / LAST).read_text(encoding="utf-8").replace("4.25", "1.25"))
        relock(folder, lambda stages: stages[stage]["outs"].append({"path": path, "hash": "md5", "md5": "0" * 32, "size": 1}))

    return forge


def own_json(folder: Path) -> None:
    write(folder, "docs/n.json", '{"heun": {"fd": 1.25}}')
    write(folder, "README.md", "heun, NFE 34: <!-- number docs/n.json:heun,fd -->1.25<!-- /number -->")


def folder_called_head(folder: Path) -> None:
    write(folder, f"HEAD/{LAST}", (folder / LAST).read_text(encoding="utf-8").replace("4.25", "1.25"))
    shutil.copyfile(folder / "dvc.lock", folder / "HEAD/dvc.lock")
    write(folder, "README.md", f"heun, NFE 34: <!-- number {LAST}:heun/nfe34/fd -->1.25<!-- /number -->")


def other_place(folder: Path) -> None:
    write(folder, "README.md", f"| Heun, NFE 2 | <!-- number {LAST}:heun/nfe34/fd -->4.25<!-- /number --> |")


def claims_of_no_suite(folder: Path) -> None:
    header = "claim,text,quantity,verdict,n_seeds,seeds_to_decide,weakest_margin"
    for place in ("", "docs/"):
        write(folder, f"{place}{CLAIMS}", f"{header}\na,Ours is best,fd,held,30,,1\n")
    table = "| claim | here | in `docs` |\n|---|---|---|\n| Ours is best (fd) | held (n = 30) | held (n = 30) |"
    write(folder, "README.md", f"<!-- quote claims/docs -->\n{table}\n<!-- /quote -->")


def hidden_results(folder: Path) -> None:
    write(folder, "reports/.x/results.csv", "method,fd\nours,1.25\n")
    commit(folder, "hidden")


def linked_folder(folder: Path) -> None:
    write(folder, "docs/results.csv", "method,fd\nours,1.25\n")
    (folder / "reports").mkdir()
    (folder / "reports/tables").symlink_to("../docs")


@pytest.mark.parametrize(
    ("forge", "verdict", "message"),
    [
        (made_beside("metrics", "code.yaml"), BROKEN, "metrics makes code.yaml or results/ledger.json beside"),
        (made_beside("metrics", "results/ledger.json"), BROKEN, "metrics makes code.yaml or results/ledger.json beside"),
        (made_beside("code", "reports/x.csv"), BROKEN, "code makes code.yaml or results/ledger.json beside"),
        (own_json, UNBACKED, "no stage made docs/n.json"),
        (folder_called_head, BROKEN, "says 1.25"),
        (other_place, BROKEN, "stands beside NFE 2, and is of NFE 34"),
        (claims_of_no_suite, UNBACKED, f"docs/{CLAIMS} lies in no suite"),
        (hidden_results, UNBACKED, "reports/.x/results.csv: no stage made it"),
        (linked_folder, UNBACKED, "reports/tables: no stage made it"),
    ],
)
def test_what_no_digest_contradicts_is_named(suite: Path, forge: Callable[[Path], None], verdict: str, message: str) -> None:
    assert audit(suite).exit_code == 0
    forge(suite)
    found = [finding for finding in audit(suite).findings if message in finding.message]
    assert found and {finding.verdict for finding in found} <= {verdict, UNBACKED}


def test_a_folder_of_the_name_of_a_revision_is_asked_for_as_a_folder(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_called_head(suite)
    monkeypatch.chdir(suite)
    assert open_run("HEAD", Path()).commit and not open_run("./HEAD", Path()).commit
    with pytest.raises(UserError, match="neither a folder nor a git revision"):
        open_run("f" * 40, Path())


@pytest.mark.parametrize("local", ["data/local", "data/local/", "./data/local"])
def test_files_got_by_hand_are_known_however_their_place_is_spelt(suite: Path, local: str) -> None:
    values = yaml.safe_load((suite / "params.yaml").read_text(encoding="utf-8"))
    (suite / "params.yaml").write_text(yaml.safe_dump(values | {"data": {"name": "fashion-mnist", "local": local}}), encoding="utf-8")
    write(suite, "data/raw/a", "a")
    write(suite, "data/local/a.png", "an image")
    relock(suite, lambda stages: None)
    assert not [finding for finding in audit(suite).findings if finding.subject.startswith("data/local")]


def test_metrics_of_another_shape_are_no_traceback(suite: Path) -> None:
    values = yaml.safe_load((suite / "params.yaml").read_text(encoding="utf-8"))
    values["metrics"] |= {"n_samples": 500, "n_curve": 500}
    (suite / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    for text in ('{"values": {"fd": 3.2}}', '{"values": {"heun": {"nfe34": 3.2}}}', '{"values": [3.2]}', "[]"):
        write(suite, LAST, text)
        assert audit(suite).exit_code == 30


def test_results_are_checked_out_with_their_bytes_whatever_git_is_told_of_line_ends(suite: Path, tmp_path: Path) -> None:
    shutil.copyfile(Path(__file__).parents[2] / ".gitattributes", suite / ".gitattributes")
    subprocess.run(["git", "add", ".gitattributes"], cwd=suite, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "bytes"], cwd=suite, check=True)
    subprocess.run(["git", "-c", "core.autocrlf=true", "clone", "--quiet", str(suite), str(tmp_path / "clone")], check=True)
    for path in (LAST, "dvc.lock", "results/records/metrics.json"):
        assert (tmp_path / "clone" / path).read_bytes() == (suite / path).read_bytes()
    assert load_json(tmp_path / "clone" / LAST)["values"]
