"""Numbers that are all true, beside others that are kept back: what a suite declares, or once declared, has to be there or is named."""

import csv
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from backtrail.artifacts import YAML_LOADER
from backtrail.audit.audit import audit
from backtrail.audit.evidence import Evidence
from backtrail.audit.findings import UNBACKED
from backtrail.audit.left_out import cells, dropped, missing
from backtrail.ledger.hashes import Hashes
from backtrail.ledger.history import history
from backtrail.ledger.ledger import open_ledger
from backtrail.parameters.suite import read_suite
from tamper.forging import edit_lock, replace, rewrite_ledger
from tamper.hand_made import build
from tamper.repository import commit
from unit.refusals import as_yaml

pytestmark = pytest.mark.xdist_group("tamper")
RESULTS, CLAIMS = "reports/tables/results.csv", "reports/tables/claims.csv"


def keep_rows(path: Path, wanted: Callable[[dict[str, str]], bool]) -> None:
    """The rows of a CSV file that are wanted, and no others."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        names, kept = list(rows.fieldnames or []), [row for row in rows if wanted(row)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


def set_cells(path: Path, method: str, column: str, text: str) -> None:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row[column] = text if row["method"] == method else row[column]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def take_away(folder: Path, stages: tuple[str, ...]) -> None:
    """Stages out of dvc.yaml, dvc.lock and the records, as if they had never been there; what they made stays."""
    pipeline = yaml.load((folder / "dvc.yaml").read_text(encoding="utf-8"), YAML_LOADER)
    for stage in stages:
        pipeline["stages"].pop(stage)
        (folder / f"results/records/{stage}.json").unlink()
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")

    def change(locked: dict[str, Any]) -> None:
        for stage in stages:
            locked.pop(stage)

    edit_lock(folder, change)
    commit(folder, "tidy")


def said(folder: Path) -> tuple[int, list[str]]:
    """Exit code, and the messages about what is missing; the claims are those that the untouched table has."""
    done = audit(folder, claims=CLAIM_KEYS)
    return done.exit_code, [of.message for of in done.findings if of.verdict == UNBACKED and of.link.startswith("params.yaml ->")]


CLAIM_KEYS = ("sfd-v-beats-dpmpp", "disback-beats-diff-instruct")


def test_the_rows_that_params_declare_are_those_of_the_untouched_table(finished: Path) -> None:
    with open(finished / RESULTS, newline="", encoding="utf-8") as file:
        found = {(row["kind"], row["method"], int(row["nfe"]), float(row["guidance"])) for row in csv.DictReader(file)}
    assert set(cells(read_suite(finished / "params.yaml"))) == found
    assert said(finished) == (0, [])


def test_a_suite_that_distils_nothing_needs_no_tables() -> None:
    ledger = open_ledger(Path(__file__).parents[2] / "suites/fashion-mnist-teacher")
    assert ledger.params["students"] == {} and not list(missing(ledger))


def test_the_rows_of_the_repository_s_own_table_are_declared() -> None:
    root = Path(__file__).parents[2]
    with open(root / RESULTS, newline="", encoding="utf-8") as file:
        found = {(row["kind"], row["method"], int(row["nfe"]), float(row["guidance"])) for row in csv.DictReader(file)}
    assert set(cells(read_suite(root / "params.yaml"))) == found


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (lambda f: keep_rows(f / RESULTS, lambda row: (row["method"], row["nfe"]) != ("sfd-v", "3")), "lacks sfd-v at NFE 3: params.yaml"),
        (lambda f: set_cells(f / RESULTS, "disback", "n_seeds", "1"), r"lacks all seeds of disback at NFE 1 \(1\): params.yaml declares 2"),
        (lambda f: set_cells(f / RESULTS, "disback", "fd_classifier_mean", ""), "lacks fd_classifier_mean of disback at NFE 1"),
        (lambda f: keep_rows(f / CLAIMS, lambda row: row["claim"] != "sfd-v-beats-dpmpp"), "claims.csv lacks sfd-v-beats-dpmpp"),
    ],
    ids=["row", "seeds", "metric", "claim"],
)
def test_what_a_table_lacks_is_named_though_the_ledger_fits_it(ledger: Path, forge: Callable[[Path], None], message: str) -> None:
    forge(ledger)
    rewrite_ledger(ledger)
    code, messages = said(ledger)
    assert code == 20 and len(messages) == 1 and re.search(message, messages[0]), messages


def test_a_forged_page_whose_stages_were_taken_away_is_named(ledger: Path) -> None:
    """This passed with exit 0: no stage was left that the page could contradict."""
    replace(ledger / "reports/index.html", "DisBack", "Better")
    take_away(ledger, ("figures", "tables", "report"))
    done = audit(ledger)
    subjects = {finding.subject for finding in done.findings if finding.verdict == UNBACKED}
    assert done.exit_code == 20 and {"reports/index.html", RESULTS, CLAIMS} <= subjects
    assert any("no stage makes reports/index.html" in finding.message for finding in done.findings)
    assert any("reports/figures/nfe.png: no stage made it" in finding.message for finding in done.findings)


# ------------------------------------------------------------------------------------------------ what history has held


@pytest.fixture
def with_history(tmp_path: Path) -> Path:
    """A suite that tried seeds 0 to 3 and two methods, and kept seeds 0 and 3 and one method."""
    folder = build(tmp_path / "suite")
    values = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    for seeds, methods in (([0, 1, 2, 3], ["worse", "kept"]), ([0, 3], ["worse", "kept"]), ([0, 3], ["kept"])):
        values |= {"seeds": seeds, "students": {method: {} for method in methods}}
        (folder / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
        commit(folder, f"seeds {seeds}, {methods}")
    return folder


def revision(folder: Path, name: str) -> str:
    return subprocess.run(["git", "rev-parse", name], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_seeds_and_methods_that_history_held_are_named_with_the_commit_that_dropped_them(with_history: Path) -> None:
    seeds, methods = dropped(open_ledger(with_history))
    assert seeds.startswith("seeds that params.yaml held and holds no more: 1, 2; commit " + revision(with_history, "HEAD~1")[:12])
    assert methods.startswith("method that params.yaml held and holds no more: worse; commit " + revision(with_history, "HEAD")[:12])
    assert seeds in audit(with_history).notes


def test_a_seed_that_came_back_is_not_gone_and_one_dropped_in_the_working_tree_is(with_history: Path) -> None:
    values = yaml.safe_load((with_history / "params.yaml").read_text(encoding="utf-8"))
    (with_history / "params.yaml").write_text(as_yaml(values | {"seeds": [0, 1, 2]}), encoding="utf-8")
    lines = [line for line in dropped(open_ledger(with_history)) if line.startswith("seed")]
    assert lines == ["seed that params.yaml held and holds no more: 3; not committed yet"]


def test_a_seed_that_was_tried_on_a_merged_branch_is_named(with_history: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=with_history, check=True, capture_output=True)

    text = (with_history / "params.yaml").read_text(encoding="utf-8")
    git("checkout", "-q", "-b", "tried")
    (with_history / "params.yaml").write_text(as_yaml(yaml.safe_load(text) | {"seeds": [0, 3, 7]}), encoding="utf-8")
    commit(with_history, "seed 7")
    (with_history / "params.yaml").write_text(text, encoding="utf-8")
    commit(with_history, "as it was")
    back = revision(with_history, "HEAD")
    git("checkout", "-q", "-")
    git("merge", "-q", "--no-ff", "-m", "merge", "tried")
    assert any(f"7; commit {back[:12]}" in line for line in dropped(open_ledger(with_history)))


def test_a_file_that_was_taken_away_and_made_anew_hides_no_drop(with_history: Path) -> None:
    text = (with_history / "params.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    (with_history / "params.yaml").unlink()
    commit(with_history, "away")
    (with_history / "params.yaml").write_text(as_yaml(values | {"seeds": [0]}), encoding="utf-8")
    commit(with_history, "and here again, with a seed less")
    assert any(f"3; commit {revision(with_history, 'HEAD')[:12]}" in line for line in dropped(open_ledger(with_history)))


def test_a_clone_without_history_says_so(with_history: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth", "1", with_history.resolve().as_uri(), str(shallow)], check=True, env=os.environ)
    assert not history(shallow, "params.yaml").whole and history(with_history, "params.yaml").whole
    (line,) = dropped(open_ledger(shallow))
    assert "history is not whole here" in line and "git fetch --unshallow" in line


@pytest.mark.parametrize("kind", ["clone", "worktree", "submodule"])
def test_what_a_shallow_clone_lacks_git_fetches_wherever_its_folder_lies(kind: str, with_history: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shallow"
    source = with_history.resolve().as_uri()
    subprocess.run(["git", "clone", "-q", "--depth", "1", source, str(folder)], check=True, env=os.environ)
    if kind == "worktree":
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(tmp_path / "beside")], cwd=folder, check=True, env=os.environ)
        folder = tmp_path / "beside"
    elif kind == "submodule":
        (tmp_path / "outer").mkdir()
        (folder / ".git").rename(tmp_path / "outer/modules")
        (folder / ".git").write_text("gitdir: ../outer/modules\n", encoding="utf-8")
    assert Evidence(open_ledger(folder), Hashes(folder)).fetches_more == "git fetch --unshallow"
    assert Evidence(open_ledger(with_history), Hashes(with_history)).fetches_more == ""
