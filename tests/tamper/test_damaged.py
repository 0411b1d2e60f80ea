"""Metric files that are torn or of another form, and what ran again: answers without a traceback, counted and not read out of prose."""

import importlib.util
import json
import math
import shutil
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from backtrail.audit import recompute, rerun, tree
from backtrail.audit.alike import apart
from backtrail.audit.audit import Audit, audit, judge
from backtrail.audit.compare import compare
from backtrail.audit.findings import ABSENT, BROKEN, EXIT_CODES, Finding
from backtrail.audit.findings_text import findings_in_words
from backtrail.audit.plausible import suspicions
from backtrail.audit.why import describe, why
from backtrail.cli.audit import recomputations
from backtrail.cli.curves import command as curves
from backtrail.cli.dag import command as dag
from backtrail.cli.diff import command as diff
from backtrail.data.fetch import fetch
from backtrail.data.registry import File, Source
from backtrail.errors import UserError
from backtrail.laid_down import BY_HAND, declared_stages
from backtrail.layout import GATHERED
from backtrail.ledger.chains import facts
from backtrail.ledger.gathered import gather
from backtrail.ledger.ledger import Entry, Ledger, Stage, open_ledger
from backtrail.ledger.numbers import Number
from tamper import repository
from tamper.forging import edit_lock, flip
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


# ------------------------------------------------------------------------------------------------ what is torn elsewhere


def not_utf8(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9] + b"\xff" + path.read_bytes()[-8:])


@pytest.mark.parametrize("path", ["results/records/teacher.json", "reports/tables/results.csv", "reports/tables/claims.csv"])
def test_one_byte_that_is_no_text_does_not_end_the_audit(suite: Path, path: str) -> None:
    if not (suite / path).exists():
        (suite / path).parent.mkdir(parents=True, exist_ok=True)
        (suite / path).write_text("method,nfe,fd_mean\nheun,34,4.25\n", encoding="utf-8")
    not_utf8(suite / path)
    assert path in {finding.subject for finding in audit(suite).findings}


@pytest.mark.parametrize("text", ['{"values": ', "{}", "[]"])
def test_a_damaged_metric_file_is_broken_at_level_metric_too(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the hash level had found was lost with a traceback."""
    path, samples = "results/metrics/sfd/seed0.json", "results/samples/sfd/seed0.safetensors"
    stage = Stage("metrics@sfd-0", "", {samples: Entry(samples, "", 0)}, {}, {path: Entry(path, "", 0)})
    opened = Ledger(tmp_path, {stage.name: stage}, {stage.name: None}, {})
    monkeypatch.setattr(recompute, "measured", lambda *_: ({}, []))
    assert recompute.metrics(opened, set(), ["*"])[:2] == ([], set())  # not here: said elsewhere
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text, encoding="utf-8")
    (finding,), right, _ = recompute.metrics(opened, set(), ["*"])
    assert finding.verdict == BROKEN and finding.subject == path and right == set()
    assert finding.message.startswith(f"{path} cannot be held against {samples}: ")


def test_conflict_marks_in_the_pipeline_are_named(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (suite / "dvc.yaml").read_text(encoding="utf-8")
    (suite / "dvc.yaml").write_text(f"<<<<<<< HEAD\n{text}=======\n>>>>>>> theirs\n", encoding="utf-8")
    (finding,) = [one for one in audit(suite).findings if one.subject == "dvc.yaml"]
    assert "dvc.yaml is no YAML: " in finding.message
    with pytest.raises(UserError, match="is no YAML"):
        list(declared_stages(suite))


@pytest.mark.parametrize("command", [dag, curves])
def test_what_params_say_wrongly_is_said_before_the_pipeline_is_read(
    command: click.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("seeds: [0, 1, 2]", "seeds: 0"), encoding="utf-8")
    done = CliRunner().invoke(command, ["tensorboard"] if command is curves else [])
    assert isinstance(done.exception, UserError) and str(done.exception).startswith("params.yaml: seeds")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("results/curves/disback/seed0.csv", "step,cost\n1,2.0\n>>>>>>> theirs\n"),
        ("results/paths/disback/seed0/path.csv", "node,step,digest\n0\n"),
    ],
)
def test_a_chain_is_told_without_what_a_torn_table_held(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    student, path = "results/students/disback/seed0/student.safetensors", "results/paths/disback/seed0"
    stage = Stage("one", "", {}, {}, {out: Entry(out, "", 0) for out in (student, path, "results/curves/disback/seed0.csv")})
    opened = Ledger(tmp_path, {"one": stage}, {"one": {"seeds": [3], "notes": []}}, {})
    assert facts(opened, stage, student) == facts(opened, stage, path) == {"seeds": [3]}


def test_a_ledger_with_a_circle_is_told_to_its_end() -> None:
    def link(path: str, *sources: dict) -> dict:
        return {"path": path, "stage": "s", "verdict": "verified", "from": list(sources)}

    ring = link("a", link("b", {"path": "a", "told": True, "stage": "s", "verdict": "verified"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "_facts", lambda _: ())
        patch.setattr(tree, "_named", lambda of: of["path"])
        assert list(tree.main_line({"chain": [ring]})) == ["a", "b"]


def test_an_output_that_is_not_here_is_not_held_against_another_processor_s(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (suite / LAST).unlink()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # rounds otherwise, and the record names a machine that is not this one
    done = audit(suite, recomputations(("stage",), ("metrics",), suite))
    assert not [finding for finding in done.findings if finding.verdict == BROKEN]
    assert apart(suite / LAST, suite / "params.yaml") == math.inf


def test_what_is_drawn_again_sees_the_records_that_only_git_keeps(suite: Path) -> None:
    """Without one of them the page lacked its chain, and was called forged."""
    (suite / GATHERED).parent.mkdir(exist_ok=True)
    gather(suite)
    path = "results/records/teacher.json"
    content = (suite / path).read_bytes()
    for gone in (False, True):
        if gone:
            (suite / path).unlink()
        with recompute.beside(open_ledger(suite)) as folder:
            assert (folder / path).read_bytes() == content and (folder / LAST).read_text(encoding="utf-8")
            assert {item.name for item in (folder / path).parent.iterdir()} == {"teacher.json", "metrics.json"}
    assert not (suite / path).exists()  # nothing is written through a link


def test_a_stage_whose_code_is_not_here_cannot_run_again(suite: Path, tmp_path: Path) -> None:
    opened = open_ledger(suite)
    shutil.rmtree(suite / "src")
    assert "its code, src/backtrail, is not here" in rerun.run_again(opened, opened.stages["teacher"], tmp_path)


def test_a_file_that_dvc_is_told_to_pass_over_within_an_output_is_named(suite: Path) -> None:
    folder = Path("results/teacher")
    edit_lock(suite, lambda stages: stages["teacher"]["outs"].append({"path": "results/more", "md5": "0" * 32 + ".dir", "size": 0}))
    (suite / "results/more").mkdir()
    for name in (f"{folder}/teacher.safetensors", "results/more/better.csv"):
        (suite / name).write_text("weights", encoding="utf-8")
    (suite / ".dvcignore").write_text("better.csv\n", encoding="utf-8")
    assert "results/more/better.csv: no stage made it" in {finding.message for finding in audit(suite).findings}


def test_what_the_tool_itself_lays_down_is_no_stray(suite: Path) -> None:
    (suite / BY_HAND).parent.mkdir(parents=True)
    (suite / BY_HAND).write_text("files that were got by hand\n", encoding="utf-8")
    assert audit(suite).exit_code == 0


def test_the_cure_of_a_changed_file_is_one_that_brings_it_back(suite: Path) -> None:
    flip(suite / LAST)
    (finding,) = [one for one in audit(suite).findings if one.subject == LAST]
    assert finding.cure == f"git checkout -- {LAST}"
    repository.run(suite, *finding.cure.split())
    assert audit(suite).exit_code == 0
    repository.run(suite, "git", "rm", "--quiet", "--cached", LAST)
    (suite / LAST).with_name(".gitignore").write_text(f"/{Path(LAST).name}\n", encoding="utf-8")
    repository.commit(suite, "in DVC's cache, not in git")
    flip(suite / LAST)
    assert f"dvc checkout {LAST}" in {one.cure for one in audit(suite).findings}


def test_commits_that_are_not_here_are_not_called_files(suite: Path) -> None:
    missing = [
        Finding("not here", LAST, "a -> b", "a file is not here", "dvc repro", 4, absent=True),
        Finding("unbacked", "stage:x", "a -> b", "a commit is not here", "git fetch --unshallow", absent=True),
    ]
    lines = list(findings_in_words(Audit(open_ledger(suite), missing, [], [])))
    assert [line.partition(":")[0] for line in lines] == ["not here", "  a file is not here; `dvc repro`", "not here", *lines[3:]]
    assert "1 files, 4 bytes" in lines[0] and "`dvc repro` brings them" in lines[0]
    assert "1 commits or keys" in lines[2] and "brings" not in lines[2] and "git fetch --unshallow" in lines[3]
