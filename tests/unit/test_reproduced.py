"""`backtrail reproduced` on a small suite whose results were published, and on another machine's run of it."""

import hashlib
import html
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from synthetic_suite import SEEDS, STUDENTS, write_suite

from backtrail.audit.published import FILE, Origin, last_with_results, publish
from backtrail.audit.reproduced import FLOAT, OUTSIDE, ROUNDED, SAME, WITHIN, Held, Reproduction, reproduced
from backtrail.cli.reproduced import command
from backtrail.errors import UserError
from backtrail.ledger.repository import file_at
from backtrail.report.tables import render_table
from tamper.forging import rewrite_lock_only
from tamper.repository import commit, run

ROOT = Path(__file__).parents[2]
RESULTS, CLAIMS = "reports/tables/results.csv", "reports/tables/claims.csv"
HERE, THERE = "AMD EPYC", "Intel Xeon"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite with its results, records of where they were made, and `published.json`; not to be written to."""
    folder = write_suite(tmp_path_factory.mktemp("published") / "suite")
    finish(folder, HERE)
    publish(folder)
    (folder / ".gitignore").write_text("results/records\n")
    run(folder, "git", "init", "--quiet", ".")
    commit(folder, "results")
    return folder


@pytest.fixture
def suite(published: Path, tmp_path: Path) -> Path:
    """A copy of it, which has run on the same machine."""
    shutil.copytree(published, tmp_path / "suite")
    return tmp_path / "suite"


def finish(folder: Path, processor: str) -> None:
    """Tables, records and a lock for the metric files that lie in the folder."""
    made = {"teacher-metrics": ["results/metrics/teacher.json"], "tables": [RESULTS, CLAIMS]}
    made |= {f"metrics@{method}-{seed}": [f"results/metrics/{method}/seed{seed}.json"] for method in STUDENTS for seed in SEEDS}
    for name in ("results", "claims"):
        render_table(name, folder)
    (folder / "results/records").mkdir(exist_ok=True)
    stages: dict[str, Any] = {}
    for stage, files in made.items():
        record = {
            "host": {"processor": processor},
            "packages": {"torch": "2.15.0"},
            "determinism": {} if stage == "tables" else {"threads": 1},
        }
        (folder / f"results/records/{stage}.json").write_text(json.dumps(record))
        outs = [{"path": f, "md5": hashlib.md5((folder / f).read_bytes()).hexdigest()} for f in [*files, f"results/records/{stage}.json"]]
        stages[stage] = {"cmd": f"python src/backtrail {stage.split('@')[0]}", "outs": outs}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def moved(folder: Path, owner: str, factor: float | Callable[[int], float]) -> None:
    """Every value of a method, or of the teacher, as another machine has it."""
    for path in sorted((folder / "results/metrics").glob(f"{owner}/*.json" if owner != "teacher" else "teacher.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for by_nfe in content["values"].values():
            for values in by_nfe.values():
                values.update({name: value * factor for name, value in values.items()})
        path.write_text(json.dumps(content), encoding="utf-8")


def flip(folder: Path, claim: str, was: str, now: str) -> None:
    lines = (folder / CLAIMS).read_text(encoding="utf-8").splitlines(keepends=True)
    changed = [line.replace(f",{was},", f",{now},", 1) if line.startswith(f"{claim},") else line for line in lines]
    assert changed != lines
    (folder / CLAIMS).write_text("".join(changed), encoding="utf-8")
    rewrite_lock_only(folder)


def owners(found: Reproduction, near: str) -> set[str]:
    """The methods, or solvers, of the numbers of one class, by both kinds of files."""
    names = [one.name for one in found.of(near)]
    in_table = {name.split(":")[1].split(",")[0] for name in names if name.startswith(RESULTS)}
    return in_table | {name.split("/")[2].removesuffix(".json:student") for name in names if name.startswith("results/metrics/")}


def test_the_published_run_is_the_same_to_the_last_digit(suite: Path) -> None:
    found = reproduced(suite)
    assert found.exit_code == 0 and not found.changed and found.n_verdicts == 12
    assert len(found.of(SAME)) == len(found.numbers) > 300
    assert found.published.processors == (HERE,) and found.here.processors == (HERE,)


def test_another_machine(suite: Path) -> None:
    """Numbers moved by 1e-7, by 0.5 % and by 10 %, some not at all, and a verdict that flipped."""
    moved(suite, "sfd", 1 + 1e-7)
    moved(suite, "sfd-v", 1.005)
    moved(suite, "disback", 1.1)
    finish(suite, THERE)
    flip(suite, "sfd-beats-dpmpp", "held", "undecided at this size")
    found = reproduced(suite)
    assert owners(found, SAME) >= {"diff-instruct", "trajectory", "euler", "heun"}
    assert (owners(found, ROUNDED), owners(found, WITHIN), owners(found, OUTSIDE)) == ({"sfd"}, {"sfd-v"}, {"disback"})
    assert found.exit_code == 6 and [(one.claim, one.published, one.here) for one in found.changed] == [
        ("sfd-beats-dpmpp", "held", "undecided at this size")
    ]
    assert (found.published.processors, found.here.processors) == ((HERE,), (THERE,))
    for one in found.of(OUTSIDE):
        assert one.here == pytest.approx(1.1 * one.published, rel=1e-6) and abs(one.here - one.published) > 2 * one.std
    costs = [one for one in found.numbers if one.name.endswith("cost_F")]
    assert costs and all(one.near == SAME and math.isnan(one.std) for one in costs)


def test_the_teacher_is_one_model_and_judged_by_its_metrics_usual_spread(suite: Path) -> None:
    moved(suite, "teacher", 1.005)
    finish(suite, THERE)
    assert owners(reproduced(suite), WITHIN) >= {"heun", "euler", "teacher.json:heun"} and reproduced(suite).exit_code == 0
    moved(suite, "teacher", 1.1)
    finish(suite, THERE)
    assert owners(reproduced(suite), OUTSIDE) >= {"heun", "euler"}


def test_the_farthest_stand_first_and_what_has_no_spread_before_them() -> None:
    held = [Held(name, 1.0, here, std, OUTSIDE) for name, here, std in (("near", 2.0, 0.4), ("alone", 1.5, math.nan), ("far", 9.0, 1.0))]
    assert [one.name for one in Reproduction(Origin(""), Origin(""), held, 0, []).of(OUTSIDE)] == ["alone", "far", "near"]


def test_a_spread_that_grew_is_no_excuse(suite: Path) -> None:
    """It is the published spread that counts, not that of the run which is judged."""
    path = suite / "results/metrics/disback/seed0.json"
    path.write_text(path.read_text(encoding="utf-8").replace(": 1", ": 9"), encoding="utf-8")
    finish(suite, THERE)
    assert any(one.name.startswith(RESULTS) for one in reproduced(suite).of(OUTSIDE))


def test_published_files_laid_over_another_run_s_are_no_result_of_it(suite: Path) -> None:
    """What lies here is what was published, and the lock of the run here names other bytes."""
    right = {path: path.read_bytes() for path in (suite / "results/metrics").rglob("*.json")}
    moved(suite, "disback", 2.0)
    rewrite_lock_only(suite)
    for path, content in right.items():
        path.write_bytes(content)
    with pytest.raises(UserError, match="it is of another run"):
        reproduced(suite)


def test_what_is_missing_is_named(suite: Path) -> None:
    path = suite / "results/metrics/sfd/seed2.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["values"]["student"]["nfe2"]["fd_classifier"]
    path.write_text(json.dumps(content), encoding="utf-8")
    rewrite_lock_only(suite)
    found = reproduced(suite)
    assert found.missing == ["results/metrics/sfd/seed2.json:student/nfe2,fd_classifier"] and found.exit_code == 6


def test_nothing_to_hold_it_against_is_told_from_every_other_error(suite: Path, published: Path, tmp_path: Path) -> None:
    shutil.rmtree(suite / ".git")
    with pytest.raises(UserError) as without_history:
        reproduced(suite)
    run(suite, "git", "init", "--quiet", ".")
    run(suite, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--allow-empty", "--message", "none")
    with pytest.raises(UserError) as without_results:
        reproduced(suite)
    assert without_history.value.exit_code == without_results.value.exit_code == 7
    shutil.rmtree(suite / "results/records")
    with pytest.raises(UserError) as without_a_run:
        reproduced(suite)
    assert without_a_run.value.exit_code == 7
    with pytest.raises(UserError) as no_commit:
        reproduced(published, "no-such-commit")
    assert no_commit.value.exit_code == 2


@pytest.mark.parametrize(("code", "passes"), [(0, True), (6, True), (7, True), (1, False), (2, False), (4, False), (130, False)])
def test_make_is_content_with_another_result_and_with_no_failure(code: int, passes: bool, tmp_path: Path) -> None:
    """The line of `make repro`, on a command that ends so."""
    printed = subprocess.run(["make", "--dry-run", "repro"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in printed.splitlines() if line.startswith("backtrail reproduced ")]
    (tmp_path / "backtrail").write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
    (tmp_path / "backtrail").chmod(0o755)
    ended = subprocess.run(["sh", "-c", line], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}).returncode
    assert ended == (0 if passes else code)


def invoke(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(command, list(arguments))


def test_text_and_json(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(suite, "disback", 1.1)
    finish(suite, THERE)
    flip(suite, "sfd-beats-dpmpp", "held", "not held")
    (suite / "reports/index.html").write_text("page")
    said, told = invoke(suite, monkeypatch), invoke(suite, monkeypatch, "--json")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=suite, check=True, capture_output=True, text=True).stdout.strip()
    assert said.exit_code == told.exit_code == 6
    found = json.loads(told.stdout)
    assert found["published"]["commit"] == head and sum(found["counts"].values()) == len(reproduced(suite).numbers)
    lines = said.stdout.splitlines()
    assert lines[0].startswith(f"Compared with commit {head[:10]} of 20") and f"({HERE}); this run: {THERE}. Of " in lines[0]
    assert f"{found['counts']['outside']} outside of it. Of 12 verdicts 11 are the same." in lines[0]
    assert any(line.startswith(f"  outside: {found['outside'][0]['name']}: ") and line.endswith("here (+10.00%)") for line in lines)
    assert lines[-2] == "  verdict: SFD beats DPM-Solver++(3M) at the NFE it is trained for: held as published, not held here"
    assert lines[-1] == "The report: reports/index.html"


def inside(text: str, tag: str) -> list[str]:
    """The texts of a tag's elements."""
    found = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", text, re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]+>", "", of)).strip() for of in found]


def test_a_page_takes_no_other_file_s_place(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (suite / "dvc.lock").read_bytes()
    said = invoke(suite, monkeypatch, "--page", "dvc.lock")
    assert isinstance(said.exception, UserError) and (suite / "dvc.lock").read_bytes() == before


def test_the_page_has_every_number_beside_the_published_one(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(suite, "disback", 1.1)
    finish(suite, THERE)
    flip(suite, "sfd-beats-dpmpp", "held", "not held")
    (suite / "reports/index.html").write_text("page")
    found, said = reproduced(suite), invoke(suite, monkeypatch, "--page", "there/near.html")
    assert said.stdout.splitlines()[-1] == "Number by number: there/near.html" and said.exit_code == 6
    page = (suite / "there/near.html").read_text(encoding="utf-8")
    assert '<a href="../reports/index.html">What came out</a>' in page and "The run" not in page
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    rows = [inside(row, "td") for row in re.findall(r"<tr>.*?</tr>", body, re.DOTALL)]
    assert len(rows) == len(found.numbers) and {row[0] for row in rows} == {one.name for one in found.numbers}
    assert [row[1] for row in rows[: len(found.of(OUTSIDE))]] == ["outside"] * len(found.of(OUTSIDE))
    first = found.of(OUTSIDE)[0]
    assert rows[0][0] == first.name and rows[0][4] == "+10.00%" and float(rows[0][3]) == pytest.approx(first.here)
    assert inside(page, "p")[1] == said.stdout.splitlines()[0]
    remarks = inside(page[: page.index("<nav")], "li")
    assert len([text for text in remarks if text.startswith("outside: ")]) == len(found.of(OUTSIDE)) > 12, "all of them, not a screenful"
    assert remarks[-1].startswith("verdict: SFD beats DPM-Solver++(3M)")


def test_against_a_folder_a_table_and_a_commit(suite: Path, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(suite, "sfd-v", 1.005)
    finish(suite, THERE)
    before = reproduced(suite).to_json()["counts"]
    commit(suite, "another machine's results")
    assert reproduced(suite).to_json()["counts"]["spread"] == 0  # the newest commit holds this machine's own
    monkeypatch.chdir(suite)
    assert reproduced(".", "HEAD~1").to_json()["counts"] == reproduced(".", str(published)).to_json()["counts"] == before
    assert reproduced(".", str(published)).published.processors == (HERE,)
    table = reproduced(".", str(published / RESULTS))
    assert {one.name.split(":")[0] for one in table.numbers} == {RESULTS} and table.n_verdicts == 0
    assert len(table.of(WITHIN)) == len([one for one in reproduced(".", "HEAD~1").of(WITHIN) if one.name.startswith(RESULTS)])


def test_stages_with_other_parameters_are_told(suite: Path) -> None:
    lock = yaml.safe_load((suite / "dvc.lock").read_text())
    lock["stages"]["metrics@sfd-0"]["params"] = {"params.yaml": {"metrics": {"n_samples": 7}}}
    (suite / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert reproduced(suite).unlike == ["metrics@sfd-0"]


def test_the_newest_commit_that_holds_results(suite: Path) -> None:
    assert last_with_results(suite) == "HEAD"
    first = subprocess.run(["git", "rev-parse", "HEAD"], cwd=suite, check=True, capture_output=True, text=True).stdout.strip()
    run(suite, "git", "rm", "--quiet", "--cached", RESULTS)
    commit_without = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--message", "no table")
    run(suite, *commit_without)
    assert last_with_results(suite) == first


def test_a_note_about_other_tables_names_no_processor(suite: Path) -> None:
    table = suite / RESULTS
    table.write_text(table.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    rewrite_lock_only(suite)
    commit(suite, "a table without its note")
    assert reproduced(suite).published.processors == ()


@pytest.mark.parametrize(
    "note", ["[]", "{", '{"processors": 7, "torch": []}', '{"processors": ["a\\u001b[2J"], "torch": [], "sha256": 1}', "null"]
)
def test_a_note_that_is_none_names_no_processor(suite: Path, note: str) -> None:
    (suite / FILE).write_text(note)
    commit(suite, "no note")
    assert reproduced(suite).published.processors == ()


def test_a_cell_that_is_no_number_is_missing(suite: Path) -> None:
    table = suite / RESULTS
    lines = table.read_text(encoding="utf-8").splitlines()
    cells = lines[-1].split(",")
    place = lines[0].split(",").index("fd_classifier_mean")
    lines[-1] = ",".join([*cells[:place], "better", *cells[place + 1 :]])
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rewrite_lock_only(suite)
    (name,) = reproduced(suite).missing
    assert name.startswith(f"{RESULTS}:") and name.endswith("fd_classifier_mean")


def test_nothing_is_published_without_a_record(suite: Path) -> None:
    shutil.rmtree(suite / "results/records")
    with pytest.raises(UserError, match="no record that says where it was made"):
        publish(suite)
    finish(suite, THERE)
    assert publish(suite)["processors"] == [THERE]


def test_the_committed_note_is_about_the_committed_tables() -> None:
    """After the built-in suite's results are renewed: `backtrail reproduced --publish`."""
    if (note := file_at(ROOT, "HEAD", FILE)) is None:
        pytest.skip("no git repository here")
    for path, digest in json.loads(note)["sha256"].items():
        assert hashlib.sha256(file_at(ROOT, "HEAD", path) or b"").hexdigest() == digest, path


def test_it_loads_neither_torch_nor_pandas_nor_an_engine() -> None:
    code = "import sys, backtrail.cli.reproduced; print({'torch', 'pandas', 'numpy', 'dvc', 'snakemake'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_float_tolerance_is_relative() -> None:
    from backtrail.audit.reproduced import _held

    assert [_held("x", 1e-6, 1e-6 * (1 + d), 0.0).near for d in (0.0, FLOAT / 2, 2 * FLOAT)] == [SAME, ROUNDED, OUTSIDE]
