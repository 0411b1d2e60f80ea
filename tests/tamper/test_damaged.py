"""Metric files that are torn or of another form, and what ran again: answers without a traceback, counted and not read out of prose."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from backtrail.audit import rerun
from backtrail.audit.audit import Audit, audit, judge
from backtrail.audit.compare import compare
from backtrail.audit.findings import ABSENT, EXIT_CODES
from backtrail.audit.plausible import suspicions
from backtrail.audit.why import describe, why
from backtrail.cli.audit import recomputations
from backtrail.cli.diff import command as diff
from backtrail.data.fetch import fetch
from backtrail.data.registry import File, Source
from backtrail.errors import UserError
from backtrail.ledger.ledger import Entry, Ledger, Stage, open_ledger
from backtrail.ledger.numbers import Number
from tamper.hand_made import LAST

BENCHMARK = Path(__file__).parents[2] / "benchmarks/audit.py"
DAMAGED = [
    '{"values": ',
    "[]",
    "",
    "3",
    '{"protocol": []}',
    '{"values": [], "protocol": {}}',
    '{"values": {"heun": []}, "protocol": []}',
    '{"values": {"heun": {"nfe34": 3}}, "protocol": [3]}',
    '{"values": {"heun": {"nfe34": {"fd": "4"}}}, "protocol": []}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_why_of_a_cell_says_broken_of_a_metric_file_that_is_damaged(suite: Path, text: str) -> None:
    (suite / LAST).write_text(text, encoding="utf-8")
    row = (("method", "heun"), ("nfe", "34"))
    cell = Number("reports/tables/results.csv", row, "fd_mean", "4.25", (LAST,))
    assert "values" not in describe(open_ledger(suite), cell)
    found = why(LAST, suite)
    assert found["verdict"] == "broken" and found["chain"][0]["path"] == LAST


def test_why_reads_the_values_of_a_whole_file_and_no_guidance_that_is_no_number(suite: Path) -> None:
    row = (("method", "heun"), ("nfe", "34"))
    cell = Number("reports/tables/results.csv", row, "fd_mean", "4.25", (LAST,))
    assert [one["value"] for one in describe(open_ledger(suite), cell)["values"]] == [4.25]
    guided = Number(cell.file, (*row, ("guidance", "much")), "fd_mean", "4.25", (LAST,))
    assert describe(open_ledger(suite), guided)["values"][0]["value"] == 4.25


@pytest.mark.parametrize("text", ['{"values": ', "[]", "", "[" * 100_000, "\udcff"], ids=["torn", "list", "empty", "deep", "no UTF-8"])
def test_diff_names_a_metric_file_that_is_damaged(suite: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (suite / LAST).write_bytes(text.encode(errors="surrogateescape"))
    (number,) = compare("HEAD", str(suite), suite)["numbers"]
    assert number == {"file": LAST, "value": "as a whole", "first": "can be read", "second": "is no metric file: torn, or of another form"}
    monkeypatch.chdir(suite)
    done = CliRunner().invoke(diff, ["HEAD", "."], catch_exceptions=False)
    assert f"  {LAST} as a whole: 'can be read' / 'is no metric file: torn, or of another form'" in done.output


def test_diff_of_values_is_as_before(suite: Path) -> None:
    (suite / LAST).write_text(json.dumps({"protocol": [], "values": {"heun": {"nfe34": {"fd": 4.5}}}}), encoding="utf-8")
    assert compare("HEAD", str(suite), suite)["numbers"] == [{"file": LAST, "value": "heun.nfe34.fd", "first": 4.25, "second": 4.5}]
    (suite / LAST).unlink()
    assert [one["second"] for one in compare("HEAD", str(suite), suite)["numbers"]] == [None]


def test_a_number_that_nothing_is_behind_is_told_to_programs_with_its_reason(suite: Path) -> None:
    opened = open_ledger(suite)
    invented = [Number("reports/tables/results.csv", (("method", "best"),), column, "0.1", ()) for column in ("fd_mean", "fd_std")]
    said = Audit(opened, [], [judge(opened, number, [], set()) for number in invented], []).to_json()
    assert [number["findings"] for number in said["numbers"]] == [[0], [1]]
    assert [finding["numbers"] for finding in said["findings"]] == [[number.name] for number in invented]


@pytest.mark.parametrize(
    "floor", ["3", "[]", '{"fd_classifier": null}', '{"fd_classifier": 1' + "0" * 400 + "}"], ids=["number", "list", "null", "huge"]
)
def test_the_floor_of_a_damaged_reference_is_none(tmp_path: Path, floor: str) -> None:
    path = "results/metrics/disback/seed0.json"
    for name, text in ((path, '{"values": {"student": {"nfe1": {"fd_classifier": 1.5}}}}'), ("results/reference/classifier.json", floor)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f'{{"floor": {text}}}' if text == floor else text, encoding="utf-8")
    stages = {path: Stage(path, "", {}, {}, {path: Entry(path, "", 0)})}
    params = {"metrics": {"n_samples": 1000, "n_curve": 500, "extractors": ["classifier"]}}
    assert suspicions(Ledger(tmp_path, stages, {path: None}, params)) == []


# ------------------------------------------------------------------------------------------------ what ran again


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_audits", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stages_that_ran_again_are_counted_and_not_what_a_note_says(suite: Path, benchmark: ModuleType) -> None:
    said_only = audit(suite, [lambda *_: ([], set(), ["a cat run again in 3 s"])])
    assert said_only.stages_again == said_only.to_json()["stages_again"] == 0
    assert "again" not in benchmark.what(json.dumps(said_only.to_json()))
    done = audit(suite, recomputations(("stage",), ("*",), suite))
    assert done.exit_code == 0 and done.to_json()["stages_again"] == 2
    assert ", 2 stages again, exit code 0" in benchmark.what(json.dumps(done.to_json()))
    drawn = audit(suite, recomputations(("stage",), ("*",), suite, sample=1, seed=0))
    assert drawn.stages_again == 1


def test_a_stage_that_fails_has_not_run_again(suite: Path) -> None:
    lock = (suite / "dvc.lock").read_text(encoding="utf-8")
    (suite / "dvc.lock").write_text(lock.replace("cmd: python src/backtrail teacher", "cmd: python src/other teacher"), encoding="utf-8")
    done = audit(suite, recomputations(("stage",), ("teacher",), suite))
    assert done.stages_again == 0 and any("fails when run again" in finding.message for finding in done.findings)


def test_a_download_without_a_network_is_no_forgery(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = File(name="a.gz", sha256="0" * 64)
    source = Source(name="clothes", purpose="images", files=(file,), licence="MIT", date="2017", homepage="the folder of somebody")
    with pytest.raises(UserError) as refused:  # what the stage says
        fetch(source, tmp_path / "data")
    monkeypatch.setattr(rerun, "run_again", lambda *_: f"backtrail: {refused.value}")
    done = audit(suite, recomputations(("stage",), ("teacher",), suite))
    assert [finding.message for finding in done.findings if finding.message.startswith("teacher cannot be run again here: ")]
    assert done.stages_again == 0 and EXIT_CODES[ABSENT] == done.exit_code
