"""The commands that question a finished suite: why, impact, diff, export, and what the audit prints."""

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, unquote

import click
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from backtrail.artifacts import file_digest, load_json
from backtrail.audit.compare import compare
from backtrail.audit.impact import impact
from backtrail.audit.why import why
from backtrail.cli import backtrail
from backtrail.errors import UserError
from backtrail.export.crate import export
from backtrail.ledger.chains import chains
from backtrail.ledger.fingerprints import digest_of
from backtrail.ledger.hashes import Hashes
from backtrail.ledger.ledger import open_ledger
from backtrail.ledger.numbers import LAYOUTS, numbers, of_table
from backtrail.ledger.record import recipe_key
from backtrail.report.collect import open_suite
from backtrail.report.figures import FIGURES
from backtrail.report.html import render_report
from backtrail.report.tables import results
from backtrail.tables import load_csv, save_csv
from tamper.conftest import copied
from tamper.forging import flip, replace
from tamper.repository import commit

pytestmark = pytest.mark.xdist_group("tamper")
CELL = "reports/tables/results.csv:disback,fd"


def told(folder: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and output of a command, run in this process in the suite's folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        backtrail(list(arguments), standalone_mode=False)
        code = 0
    except SystemExit as leave:
        code = int(leave.code or 0)
    finally:
        os.chdir(before)
    return code, capsys.readouterr().out


def links(link: dict) -> list[str]:
    return [link["path"], *(path for source in link.get("from", []) for path in links(source))]


def test_why_of_a_cell_gives_its_digits_its_seeds_and_the_chain_down_to_the_data(finished: Path) -> None:
    found = why(CELL, finished)
    values = [load_json(finished / f"results/metrics/disback/seed{s}.json")["values"]["student"]["nfe1"]["fd_classifier"] for s in (0, 1)]
    assert [one["value"] for one in found["values"]] == values
    assert found["mean"] == statistics.fmean(values) and found["std"] == statistics.stdev(values)
    assert float(found["value"]) == pytest.approx(found["mean"], rel=1e-8) and found["verdict"] == "verified"
    assert found["protocol"]["reference_sha256"] == file_digest(finished / "results/reference/classifier.safetensors")
    paths = links(found["table"])
    for seed in (0, 1):
        chain = [
            f"results/metrics/disback/seed{seed}.json", f"results/samples/disback/seed{seed}.safetensors",
            f"results/students/disback/seed{seed}/student.safetensors", f"results/paths/disback/seed{seed}",
        ]  # fmt: skip
        assert sorted(chain, key=paths.index) == chain
    assert {"results/teacher/teacher.safetensors", "data/dataset.safetensors", "data/raw"} <= set(paths)
    assert not [path for path in paths if "sfd-v" in path]


def test_why_tells_digest_commit_device_cost_nodes_and_what_is_unlike_the_paper(finished: Path) -> None:
    (student,) = why("results/students/disback/seed0/student.safetensors", finished)["chain"]
    assert student["sha256"] == file_digest(finished / student["path"])
    assert re.fullmatch("[0-9a-f]{40}", student["commit"]) and student["device"] and student["seconds"] > 0
    assert student["cost_F"] == load_csv(finished / "results/curves/disback/seed0.csv")["cost"].max()
    path = next(link for link in student["from"] if link["path"] == "results/paths/disback/seed0")
    assert [node["tensors_sha256"] for node in path["nodes"]] == list(load_csv(finished / "results/paths/disback/seed0/path.csv")["digest"])
    assert {one["parameter"] for one in path["unlike_paper"]} == {"recording.steps", "recording.nodes"}
    (few_steps,) = why("results/students/sfd-v/seed0/student.safetensors", finished)["chain"]
    unlike = {one["parameter"]: (one["ours"], one["paper"]) for one in few_steps["unlike_paper"]}
    assert unlike["batch"] == (8, 128) and "schedule.t_min" not in unlike


@pytest.mark.parametrize(
    ("target", "column", "row"),
    [
        ("reports/tables/results.csv:disback,fd_classifier", "fd_classifier_mean", {"method": "disback", "nfe": "1"}),
        ("reports/tables/results.csv:sfd-v,nfe=3,precision", "precision_classifier_mean", {"method": "sfd-v", "nfe": "3"}),
        ("reports/tables/results.csv:disback,cost", "cost_F", {"method": "disback", "nfe": "1"}),
        ("reports/tables/claims.csv:sfd-v-beats-dpmpp", "verdict", {"claim": "sfd-v-beats-dpmpp"}),
        ("reports/figures/convergence.csv:disback,update=4", "mean", {"method": "disback", "update": "4", "nfe": "1"}),
        ("results/metrics/disback/seed0.json:student/nfe1/fd_classifier", "fd_classifier", {"value": "student/nfe1"}),
    ],
)
def test_a_number_is_found_by_row_and_column(finished: Path, target: str, column: str, row: dict[str, str]) -> None:
    found = why(target, finished)
    assert (found["column"], found["row"]) == (column, row)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("reports/tables/results.csv:sfd-v,fd", "names 2 numbers; add one of: method=sfd-v,nfe=2; method=sfd-v,nfe=3"),
        ("reports/tables/results.csv:disbakc,fd", "'disbakc' is neither a row nor a column"),
        ("README.md", "was made by no stage"),
    ],
)
def test_a_target_that_is_not_one_number_is_answered_with_what_there_is(finished: Path, target: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        why(target, finished)


def test_a_row_in_latex_and_a_picture_carry_ids_that_why_finds(finished: Path) -> None:
    """The row of DisBack names its metric files; each picture names the data that it was drawn from, in each of its formats."""
    latex = (finished / "reports/tables/results.tex").read_text(encoding="utf-8").splitlines()
    assert all("% from " in line for line in latex if line.endswith(r"\\") is False and " & " in line and "Method &" not in line)
    (row,) = [line for line in latex if line.startswith("DisBack &")]
    found = [why(name, finished)["chain"][0]["path"] for name in row.partition("% from ")[2].split()]
    assert found == [f"results/metrics/disback/seed{seed}.json" for seed in (0, 1)]
    for name in ("nfe", "samples"):
        data = finished / f"reports/figures/{name}.csv"
        files = [data.with_suffix(f".{kind}").read_bytes() for kind in ("png", "svg", "pdf")]
        ((carried,),) = {tuple(re.findall(rb"backtrail why ([0-9a-f]{12})", content)) for content in files}
        assert why(carried.decode(), finished)["chain"][0]["path"] == f"reports/figures/{name}.csv"
    record = load_json(finished / "results/records/teacher.json")
    key = recipe_key("teacher", record["parameters"], record["inputs"], {"teacher": digest_of(record["code"])})
    assert why(key[:10], finished)["chain"][0]["path"] == "results/records/teacher.json"
    with pytest.raises(UserError, match="0123456789 is the short id of no file that a ledger here names"):
        why("0123456789", finished)


def test_the_page_s_chains_are_those_of_the_ledger(finished: Path) -> None:
    """The page reads the records, `why` and the audit read dvc.lock: for every number both must name the same files with the same bytes."""
    said, ledger = chains(finished), open_ledger(finished)
    for file in ("reports/tables/results.csv", "reports/figures/nfe.csv", "reports/figures/convergence.csv"):
        numbers = [number for row in said.rows(file) for number in row.values()]
        assert numbers == list(of_table(ledger, file, LAYOUTS[file])) and all(number.sources or number.external for number in numbers)
        for source in {source for number in numbers for source in number.sources}:
            said.link(source)
    assert len(said.links) > 20
    hashes = Hashes(finished)
    for path, link in said.links.items():
        digest = hashes.of(path)
        assert digest is not None and link.digest == (digest.sha256 if link.stage else "")
        assert set(link.sources) <= set(ledger.inputs(ledger.makers[path]) if link.stage else ())


@pytest.mark.slow
def test_the_page_is_rendered_again_to_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    render_report(finished, chains(finished), page=tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (finished / "reports/index.html").read_bytes()


def test_records_of_figures_tables_and_page_name_all_that_they_read(finished: Path) -> None:
    ledger = open_ledger(finished)
    for name, stage in ledger.stages.items():
        if name in ("figures", "tables", "report"):
            read = {dep for dep in stage.deps if not ledger.is_code(dep)}
            assert ledger.records[name]["inputs"].keys() == read, name


def test_why_does_not_pass_over_a_wrong_byte(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(ledger / "results/samples/disback/seed1.safetensors")
    _, text = told(ledger, "why", CELL, capsys=capsys)
    assert "[broken]" in text.splitlines()[0] and "results/samples/disback/seed1.safetensors" in text


def test_why_and_impact_answer_in_a_screen_and_show_all_when_asked(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Down from the table over a student to its teacher and the data; what is folded is counted, with what is wrong of it."""
    flip(ledger / "results/reference/classifier.safetensors")
    code, brief = told(ledger, "why", CELL, capsys=capsys)
    shown = [line.split()[0] for line in brief.splitlines() if not line.startswith(" ")]
    ways = ["reports/tables/results.csv", "results/metrics/", "results/samples/", "results/students/", "results/", "data/raw"]
    assert code == 0 and len(brief.splitlines()) <= 40 and all(any(place.startswith(way) for place in shown) for way in ways)
    assert "results/teacher/teacher.safetensors" in shown
    _, whole = told(ledger, "why", CELL, "--all", capsys=capsys)
    files = {line.lstrip("│├└─ ").split()[0] for line in whole.splitlines() if "  sha256 " in line and "told above" not in line}
    n_folded = int(re.search(r"^(\d+) more files are behind it \(.*broken", brief, re.MULTILINE)[1])
    assert n_folded + len([place for place in shown if place in files]) == len(files)
    _, brief = told(ledger, "impact", "data/raw", capsys=capsys)
    _, whole = told(ledger, "impact", "data/raw", "--all", capsys=capsys)
    counts = [int(n.replace(",", "")) for n in re.findall(r": ([\d,]+) numbers in", brief)]
    assert sum(counts) == int(re.search(r"and (\d+) numbers rest on it", whole)[1]) and len(brief.splitlines()) < 25 < len(
        whole.splitlines()
    )


def test_impact_names_every_number_that_really_changes(ledger: Path) -> None:
    """Another way: the metric file is changed, tables and figures are computed again, and each cell that moved must have been named."""
    path = "results/metrics/sfd-v/seed1.json"
    named = {number["name"] for number in impact(path, ledger)["numbers"]}
    before = {number.name: number.text for number in numbers(open_ledger(ledger))}
    content = load_json(ledger / path)
    for values in content["values"]["student"].values():
        for metric in values:
            values[metric] = values[metric] * 1.5 + 1
    (ledger / path).write_text(json.dumps(content), encoding="utf-8")
    suite = open_suite(ledger)
    save_csv(ledger / "reports/tables/results.csv", results(suite))
    for figure in ("nfe", "cost", "convergence", "path"):
        save_csv(ledger / f"reports/figures/{figure}.csv", FIGURES[figure].data(suite))
    after = {number.name: number.text for number in numbers(open_ledger(ledger))}
    moved = {name for name, text in after.items() if before.get(name) != text and not name.startswith("reports/tables/claims")}
    assert moved and moved <= named
    assert not [name for name in named if name.startswith("reports/tables/results.csv:disback")]


def test_impact_of_a_parameter_and_of_a_source_file(finished: Path) -> None:
    assert impact("params.yaml:teacher.steps", finished)["stages"][:2] in (["teacher", "teacher-samples"], ["fetch-teacher", "teacher"])
    assert set(impact("src/backtrail/report/claims.py", finished)["stages"]) == {"tables", "report"}
    assert "dataset" not in impact("params.yaml:teacher", finished)["stages"]
    assert impact("params.yaml:metrics.inception.local", finished)["stages"] == impact("params.yaml:metrics.inception", finished)["stages"]
    for wrong in ("nonsense", "params.yaml:teacher.stepz", "params.yaml:teacher.steps.more", "params.yaml:nonsense"):
        with pytest.raises(UserError, match=f"no stage of this suite read or made {wrong}"):
            impact(wrong, finished)


@pytest.mark.parametrize(
    ("model", "archive", "key"),
    [
        (["disback/seed1"], "disback/seed1", "student/nfe1"),
        (["sfd-v", "--nfe", "3"], "sfd-v/seed0", "student/nfe3"),
        (["teacher", "--nfe", "2"], "teacher", "dpmpp-3m/nfe2"),
    ],
)
def test_images_are_those_of_the_archive(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: list[str], archive: str, key: str
) -> None:
    stored = safetensors.numpy.load_file(finished / f"results/samples/{archive}.safetensors")[key]
    code, _ = told(finished, "images", *model, "--seeds", f"3-{len(stored) - 1}", "--out", str(tmp_path), capsys=capsys)
    assert code == 0
    for seed in range(3, len(stored)):
        assert np.array_equal(np.array(Image.open(tmp_path / f"{seed:06d}.png")), stored[seed].squeeze(0))


def test_diff_finds_the_first_link_at_which_two_runs_part(ledger: Path) -> None:
    """The run is committed; then it is as if the path of seed 0 had been recorded with other parameters."""
    same = compare("HEAD", str(ledger), ledger)
    assert same["parted"] == [] and same["numbers"] == []
    lock = (ledger / "dvc.lock").read_text(encoding="utf-8")
    record = json.loads((ledger / "results/records/path@disback-0.json").read_text(encoding="utf-8"))
    digests = {out: re.search(rf"path: {re.escape(out)}\n\s+hash: md5\n\s+md5: (\S+)", lock) for out in record["outputs"]}
    for found in digests.values():
        assert found is not None
        lock = lock.replace(found[1], f"{'0' * 32}.dir")
    head, _, tail = lock.partition("  path@disback-0:")
    (ledger / "dvc.lock").write_text(head + "  path@disback-0:" + tail.replace("sigma_init: 2.5", "sigma_init: 80.0", 1), encoding="utf-8")
    student = re.search(r"results/students/disback/seed0/student.safetensors\n\s+hash: md5\n\s+md5: (\S+)", lock)
    assert student is not None
    text = (ledger / "dvc.lock").read_text(encoding="utf-8").replace(student[1], "1" * 32)
    (ledger / "dvc.lock").write_text(text, encoding="utf-8")
    found = compare("HEAD", str(ledger), ledger)
    assert [part["stage"] for part in found["parted"]] == ["path@disback-0"]
    assert found["parted"][0]["reasons"] == ["parameter score_distillation.disback.sigma_init: 2.5 / 80.0"]
    assert "score-distillation@disback-0" in found["following"] and "teacher" in found["same"]


def test_diff_of_what_is_no_run_says_what_is_one(finished: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor a git revision"):
        compare("no-such-thing", ".", finished)


def test_diff_says_what_it_did_not_compare(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = [str(finished / f"results/metrics/sfd-v/seed{seed}.json") for seed in (0, 1)]
    with pytest.raises(UserError, match=r"seed0.json is no record of a stage: name two of results/records"):
        compare(*metrics)
    records = [str(finished / f"results/records/metrics@sfd-v-{seed}.json") for seed in (0, 1)]
    assert compare(*records)["parted"]
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n", encoding="utf-8")
    (tmp_path / "params.yaml").write_text("suite: other\n", encoding="utf-8")
    _, text = told(finished, "diff", ".", str(tmp_path), capsys=capsys)
    assert "have no stage in common" in text and "the same results" not in text


def test_audit_prints_the_finding_its_link_and_its_numbers_and_exits_by_the_worst(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(ledger, "audit", capsys=capsys)[0] == 0
    replace(ledger / "results/metrics/disback/seed0.json", '"fd_classifier": ', '"fd_classifier": 1')
    code, text = told(ledger, "audit", capsys=capsys)
    assert code == 30 and "broken: results/metrics/disback/seed0.json" in text
    assert "link: metrics@disback-0 -> results/metrics/disback/seed0.json" in text
    assert "reports/tables/results.csv:disback,nfe=1: fd_classifier_mean" in text.replace("n_seeds 2, ", "")
    code, text = told(ledger, "audit", "--json", capsys=capsys)
    assert code == 30 and json.loads(text)["exit_code"] == 30


def test_a_pattern_that_fits_no_stage_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"--stage metric@\* fits no stage of this suite; stages are called .*, \.\.\."):
        told(finished, "audit", "--level", "metric", "--stage", "metrics@*", "--stage", "metric@*", capsys=capsys)
    with pytest.raises(click.UsageError, match="--stage goes with --level metric, figure or stage"):
        told(finished, "audit", "--stage", "metrics@*", capsys=capsys)


def test_the_hash_audit_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, backtrail.cli.audit; print([m for m in ('torch', 'matplotlib', 'pandas', 'dvc') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['pandas']")


@pytest.fixture(scope="module")
def crate(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "crate"
    export(folder, finished)
    return folder


def test_the_crate_describes_every_stage_and_every_file_in_it(finished: Path, crate: Path) -> None:
    graph = {entity["@id"]: entity for entity in load_json(crate / "ro-crate-metadata.json")["@graph"]}
    for name, stage in open_ledger(finished).stages.items():
        if stage.keeps_books:
            continue  # it writes no result and leaves no record
        action, record = graph[f"#run/{name}"], load_json(finished / stage.record)
        assert action["startTime"] == record["started"] and record["commit"] in action["description"]
        assert graph[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
    here = {quote(path.relative_to(crate).as_posix()) for path in crate.rglob("*") if path.is_file()}
    assert "Distillation of diffusion models" in (crate / "ro-crate-preview.html").read_text(encoding="utf-8")
    assert here <= graph.keys() and {"CITATION.cff", "LICENCES.md", "LICENSE", "dvc.lock"} <= here
    for path in here & {name for name, entity in graph.items() if "sha256" in entity}:
        assert graph[path]["sha256"] == file_digest(crate / unquote(path))
    assert not [path for path in here if path.startswith("data/")]


@pytest.mark.slow
def test_the_command_that_export_prints_passes_the_crate_off_the_network(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word by word, with a proxy that refuses every connection, and no cache of the user's own."""
    pytest.importorskip("rocrate_validator")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")} | dict.fromkeys(("http_proxy", "https_proxy"), "http://[::1]:9")
    binaries = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    folder = copied(finished, tmp_path / "suite")
    code, text = told(folder, "export", "crate", capsys=capsys)
    command = text.splitlines()[-1].strip()
    assert code == 0 and command.startswith("rocrate-validator ") and " --offline " in command
    done = subprocess.run(command, shell=True, cwd=folder, env=environment | {"PATH": binaries}, capture_output=True, text=True)
    assert done.returncode == 0 and "valid" in done.stdout, done.stdout + done.stderr
    (folder / "crate/README.md").unlink()
    assert subprocess.run(command, shell=True, cwd=folder, env=environment | {"PATH": binaries}, capture_output=True).returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize(("student", "key"), [("disback-seed0", "student/nfe1"), ("sfd-v-seed1", "student/nfe2")])
def test_the_example_on_a_model_card_draws_the_images_that_were_measured(finished: Path, crate: Path, student: str, key: str) -> None:
    folder = crate / "models" / student
    text = (folder / "README.md").read_text(encoding="utf-8")
    example = text.split("```python\n")[1].split("```")[0]
    assert len([line for line in example.splitlines() if line]) <= 10
    (folder / "example.py").write_text(example, encoding="utf-8")
    subprocess.run([sys.executable, "example.py"], cwd=folder, check=True)
    method, seed = student.rsplit("-", 1)
    stored = safetensors.numpy.load_file(finished / f"results/samples/{method}/{seed}.safetensors")[key][:16]
    assert np.array_equal(np.asarray(Image.open(folder / "samples.png")), stored[:, 0].reshape(-1, stored.shape[-1]))
    assert file_digest(folder / "student.safetensors") in text


@pytest.mark.parametrize("path", ["reports/tables/results.csv", "results/students/sfd-v/seed0/student.safetensors"])
def test_bytes_that_are_not_the_ledgers_are_not_carried(ledger: Path, tmp_path: Path, path: str) -> None:
    whole = (ledger / path).read_bytes()
    (ledger / path).write_bytes(whole + b"\n")
    with pytest.raises(UserError, match=f"{path} is not as dvc.lock has it"):
        export(tmp_path / "crate", ledger)
    if path.endswith(".safetensors"):
        (ledger / path).unlink()
        with pytest.raises(UserError, match=rf"1 of \d+ students are not here \({path}\): run the suite"):
            export(tmp_path / "crate", ledger)


def test_the_crate_is_not_written_over_something(finished: Path, crate: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        export(crate, finished)


def test_nothing_private_is_in_records_reports_or_crate(finished: Path, crate: Path) -> None:
    private = [str(finished), str(Path.home()) + "/", f'"{os.uname().nodename}"']
    for folder in (finished / "results/records", finished / "reports", crate):
        for path in folder.rglob("*"):
            if path.suffix in (".json", ".csv", ".md", ".tex", ".html", ".svg", ".yaml", ".lock"):
                text = path.read_text(encoding="utf-8")
                assert not [secret for secret in private if secret in text], path


@pytest.mark.slow
def test_code_committed_after_the_run_backs_it(ledger: Path) -> None:
    from backtrail.audit.audit import audit
    from tamper.test_tampering import dirty_tree

    dirty_tree(ledger)
    assert audit(ledger).exit_code == 20
    commit(ledger, "the code that ran")
    assert audit(ledger).exit_code == 0
