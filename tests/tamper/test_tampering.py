"""Each way to tamper with a finished suite, and what the audit says: a failing exit code, the file, the link, and the numbers that rest
on it, and no others."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from backtrail.audit.audit import Audit, audit
from backtrail.audit.findings import ABSENT, BROKEN, EXIT_CODES, EXTERNAL, STALE, UNBACKED, VERIFIED
from backtrail.audit.recompute import Renderers, figures
from backtrail.errors import UserError
from backtrail.layout import FIGURES, PAGE
from backtrail.ledger.fingerprints import digest_of, file_fingerprint
from backtrail.ledger.gathered import gather
from backtrail.ledger.ledger import Entry, Ledger, Stage
from backtrail.report.run_page import RUN_PAGE
from tamper.forging import edit_lock, edit_record, flip, replace, rewrite_ledger, rewrite_lock_only

pytestmark = pytest.mark.xdist_group("tamper")
EVERYTHING, NOTHING = "everything", ""


def test_an_untouched_suite_is_verified(ledger: Path) -> None:
    done = audit(ledger)
    assert done.exit_code == 0 and done.findings == []
    assert {one.verdict for one in done.judged} == {VERIFIED, EXTERNAL}
    assert len(done.judged) > 300 and len(done.documents) > 20


def node(folder: Path) -> None:
    flip(folder / "results/paths/disback/seed0/node-001.safetensors")


def same_size_and_time(folder: Path) -> None:
    flip(folder / "results/students/sfd-v/seed1/student.safetensors")


def swapped_reference(folder: Path) -> None:
    path = folder / "results/reference/classifier.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 (not a dict)
    tensors["mean"] = tensors["mean"] + 0.1
    safetensors.torch.save_file(tensors, path, metadata)


def swapped_reference_in_the_lock(folder: Path) -> None:
    swapped_reference(folder)
    rewrite_lock_only(folder)


def locked_digest(folder: Path) -> None:
    def change(stages: dict[str, Any]) -> None:
        entry = next(out for out in stages["teacher"]["outs"] if out["path"].endswith("safetensors"))
        entry["md5"] = "0" * 32

    edit_lock(folder, change)


def locked_parameter(folder: Path) -> None:
    """The lock and params.yaml claim more training than the record tells of."""
    replace(folder / "params.yaml", "steps: 30", "steps: 3000")

    def change(stages: dict[str, Any]) -> None:
        stages["teacher"]["params"]["params.yaml"]["teacher"]["steps"] = 3000

    edit_lock(folder, change)


def locked_input(folder: Path) -> None:
    def change(stages: dict[str, Any]) -> None:
        entry = next(dep for dep in stages["samples@disback-0"]["deps"] if "students" in dep["path"])
        entry["md5"] = "0" * 32

    edit_lock(folder, change)


def invented_stage(folder: Path) -> None:
    def change(stages: dict[str, Any]) -> None:
        stages["better-teacher"] = stages.pop("teacher")

    edit_lock(folder, change)


def record_of_another_stage(folder: Path) -> None:
    shutil.copy(folder / "results/records/path@disback-1.json", folder / "results/records/path@disback-0.json")
    edit_record(folder, "path@disback-0", lambda record: None)


def record_of_another_run(folder: Path) -> None:
    """A record of the other seed, given this stage's name."""
    other = json.loads((folder / "results/records/path@disback-1.json").read_text(encoding="utf-8"))

    def change(record: dict[str, Any]) -> None:
        outputs = {"results/paths/disback/seed0": other["outputs"]["results/paths/disback/seed1"]}
        record |= {**other, "stage": "path@disback-0", "outputs": outputs}

    edit_record(folder, "path@disback-0", change)


def record_taken_away(folder: Path) -> None:
    """Out of the folder of records, and out of the file that git keeps of them."""
    (folder / "results/records/teacher.json").unlink()
    gather(folder)


def dirty_tree(folder: Path) -> None:
    """As if tables and report had been made by code that was never committed."""
    source = folder / "src/backtrail/report/tables.py"
    source.write_text(source.read_text(encoding="utf-8") + "BETTER = True\n")

    def change(record: dict[str, Any]) -> None:
        record["code"]["report/tables.py"] = file_fingerprint(source)
        record["dirty"] = True

    for stage in ("tables", "report"):
        edit_record(folder, stage, change)
    edit_lock(folder, lambda stages: [_renew_code(folder, name, stages[name]) for name in ("tables", "report")])
    rewrite_lock_only(folder)


def _renew_code(folder: Path, name: str, stage: dict[str, Any]) -> None:
    code = json.loads((folder / f"results/records/{name}.json").read_text(encoding="utf-8"))["code"]
    stage["params"]["code.yaml"] = {name: digest_of(code)}


def clock_ran_backwards(folder: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        record["started"], record["ended"] = "2026-01-02T00:00:00.000+00:00", "2026-01-01T00:00:00.000+00:00"

    edit_record(folder, "teacher-samples", change)


def changed_code(folder: Path) -> None:
    source = folder / "src/backtrail/methods/disback/distillation.py"
    source.write_text(source.read_text(encoding="utf-8") + "CHANGED = True\n")


def changed_parameter(folder: Path) -> None:
    replace(folder / "params.yaml", "seeds:\n- 0\n- 1", "seeds:\n- 0\n- 2")


def stray_file(folder: Path) -> None:
    path = folder / "results/metrics/better/seed0.json"
    path.parent.mkdir()
    shutil.copy(folder / "results/metrics/disback/seed0.json", path)


def not_here(folder: Path) -> None:
    (folder / "results/teacher/teacher.safetensors").unlink()


def added_by_hand(folder: Path) -> None:
    """One more file among the images that the user got by hand."""
    (folder / "images/notes.txt").write_text("hello", encoding="utf-8")


def flipped(path: str, at: int = -40) -> Callable[[Path], None]:
    return lambda folder: flip(folder / path, at)


def edited(path: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: replace(folder / path, old, new)


# spoil, verdict, subject, part of the link, a number that must be named, a number that must not
CASES: dict[str, tuple[Callable[[Path], None], str, str, str, str, str]] = {
    "data": (flipped("data/dataset.safetensors"), BROKEN, "data/dataset.safetensors", "dataset ->", EVERYTHING, NOTHING),
    "raw data": (flipped("data/raw/images.zip"), BROKEN, "data/raw", "fetch ->", EVERYTHING, NOTHING),
    "teacher": (
        flipped("results/teacher/teacher.safetensors"), BROKEN, "results/teacher/teacher.safetensors", "teacher ->", "disback", "reference",
    ),
    "node": (node, BROKEN, "results/paths/disback/seed0", "path@disback-0 ->", "results.csv:disback", "results.csv:sfd-v"),
    "student, same size and time": (
        same_size_and_time, BROKEN, "results/students/sfd-v/seed1/student.safetensors", "trajectory-distillation@sfd-v-1 ->",
        "results.csv:sfd-v", "results.csv:disback",
    ),
    "samples": (
        flipped("results/samples/sfd-v/seed1.safetensors"), BROKEN, "results/samples/sfd-v/seed1.safetensors",
        "samples@sfd-v-1 ->", "results.csv:sfd-v", "results.csv:disback",
    ),
    "moments": (
        flipped("results/reference/classifier.safetensors"), BROKEN, "results/reference/classifier.safetensors", "reference@classifier ->",
        "results.csv:disback", "path.csv:disback",
    ),
    "swapped reference": (
        swapped_reference, BROKEN, "results/reference/classifier.safetensors", "reference@classifier ->",
        "results.csv:disback", "path.csv:disback",
    ),
    "swapped reference, lock rewritten": (
        swapped_reference_in_the_lock, BROKEN, "results/reference/classifier.safetensors", "results/records/reference@classifier.json ->",
        "results.csv:disback", "path.csv:disback",
    ),
    "metric": (
        edited("results/metrics/disback/seed0.json", '"fd_classifier": ', '"fd_classifier": 1'), BROKEN,
        "results/metrics/disback/seed0.json", "metrics@disback-0 ->", "results.csv:disback", "results.csv:sfd-v",
    ),
    "picture": (flipped("reports/figures/nfe.png"), BROKEN, "reports/figures/nfe.png", "figures ->", NOTHING, "nfe.csv"),
    "figure's data": (
        edited("reports/figures/nfe.csv", "disback", "sfd-v"), BROKEN, "reports/figures/nfe.csv", "figures ->", "nfe.csv", "results.csv",
    ),
    "cell of a table": (
        edited("reports/tables/results.csv", "disback,1,1,True,2,", "disback,1,1,True,3,"), BROKEN,
        "reports/tables/results.csv", "tables ->",
        "results.csv:disback", "nfe.csv",
    ),
    "row that no stage made": (
        edited("reports/tables/results.csv", "student,disback,1,", "student,best,1,1,True,2,1.0,1.0,0.1,1.0\nstudent,disback,1,"), BROKEN,
        "reports/tables/results.csv", "tables ->", "results.csv:best", "nfe.csv",
    ),
    "LaTeX": (
        edited("reports/tables/results.tex", "DisBack &", "DisBack & 0.1 &"), BROKEN, "reports/tables/results.tex", "tables ->", "", "",
    ),
    "page": (edited("reports/index.html", "DisBack", "Better"), BROKEN, "reports/index.html", "report ->", NOTHING, NOTHING),
    "lock, digest": (
        locked_digest, BROKEN, "results/teacher/teacher.safetensors", "teacher ->", "results.csv:disback", "reference/classifier.json",
    ),
    "lock, parameter": (locked_parameter, BROKEN, "stage:teacher", "dvc.lock ->", "results.csv:disback", "reference/classifier.json"),
    "lock, input": (
        locked_input, STALE, "stage:samples@disback-0", "results/students/disback/seed0/student.safetensors ->",
        "results.csv:disback", "results.csv:sfd-v",
    ),
    "lock, stage": (invented_stage, UNBACKED, "stage:better-teacher", "dvc.yaml ->", "results.csv:disback", "reference/classifier.json"),
    "record of another stage": (
        record_of_another_stage, BROKEN, "stage:path@disback-0", "path@disback-0 ->", "results.csv:disback", "results.csv:sfd-v",
    ),
    "record of another run": (
        record_of_another_run, BROKEN, "results/paths/disback/seed0", "results/records/path@disback-0.json ->", "results.csv:disback",
        "results.csv:sfd-v",
    ),
    "record taken away": (
        record_taken_away, UNBACKED, "results/records/teacher.json", "teacher ->", "results.csv:disback", "reference/classifier.json",
    ),
    "dirty tree": (dirty_tree, UNBACKED, "stage:tables", "commit -> tables", "results.csv:disback", "nfe.csv"),
    "clock": (clock_ran_backwards, UNBACKED, "stage:teacher-samples", "clock ->", "results.csv:dpmpp-3m", "results.csv:disback"),
    "code": (
        changed_code, STALE, "stage:score-distillation@disback-0", "methods/disback/distillation.py ->", "results.csv:disback",
        "results.csv:sfd-v",
    ),
    "parameter": (changed_parameter, STALE, "stage:tables", "params.yaml ->", "results.csv:disback", "metrics/disback"),
    "file got by hand": (added_by_hand, STALE, "stage:fetch", "images -> fetch", EVERYTHING, NOTHING),
    "stray file": (stray_file, UNBACKED, "results/metrics/better/seed0.json", "? ->", NOTHING, NOTHING),
    "not here": (
        not_here, ABSENT, "results/teacher/teacher.safetensors", "teacher ->", "results.csv:disback", "reference/classifier.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_tampering_is_named_with_its_link_and_its_numbers(ledger: Path, case: str) -> None:
    spoil, verdict, subject, link, named, not_named = CASES[case]
    spoil(ledger)
    done = audit(ledger)
    assert done.exit_code >= EXIT_CODES[verdict]
    findings = [finding for finding in done.findings if finding.subject == subject and finding.verdict == verdict]
    assert findings and link in findings[0].link, done.findings
    resting = [one.number.name for finding in findings for one in done.resting_on(finding)]
    if named == EVERYTHING:
        assert set(resting) == {one.number.name for one in done.judged if not one.number.external}
    else:
        assert all(named in name for name in resting) if not named else any(named in name for name in resting)
        assert not not_named or not any(not_named in name for name in resting)
        assert named or not resting
    assert all(one.verdict not in (VERIFIED,) for finding in findings for one in done.resting_on(finding))


def test_the_file_in_a_folder_and_the_line_in_a_text_are_named(ledger: Path) -> None:
    node(ledger)
    replace(ledger / "reports/tables/results.csv", "disback,1,1,True,2,", "disback,1,1,True,3,")
    messages = " ".join(finding.message for finding in audit(ledger).findings)
    assert "differing: results/paths/disback/seed0/node-001.safetensors" in messages
    assert "differing in line 4" in messages


def test_what_is_not_here_is_named_with_size_and_command(ledger: Path) -> None:
    size = (ledger / "results/teacher/teacher.safetensors").stat().st_size
    not_here(ledger)
    (finding,) = audit(ledger).findings
    assert finding.absent and finding.size_bytes == size and finding.cure == "dvc repro teacher"
    (ledger / ".dvc/config").write_text("['remote \"lab\"']\n    url = /nowhere\n", encoding="utf-8")
    assert [one.cure for one in audit(ledger).findings if one.subject == finding.subject] == ["dvc pull teacher"]


def test_an_invented_row_is_unbacked_even_with_a_rewritten_ledger(ledger: Path) -> None:
    CASES["row that no stage made"][0](ledger)
    rewrite_ledger(ledger)
    done = audit(ledger)
    verdicts = {one.number.row: one.verdict for one in done.judged if "results.csv:best" in one.number.name}
    assert done.exit_code == 20 and set(verdicts.values()) == {UNBACKED}
    said = done.to_json()
    invented = [number for number in said["numbers"] if "results.csv:best" in number["name"]]
    assert len(invented) == sum("results.csv:best" in one.number.name for one in done.judged) > 0
    for number in invented:
        (reason,) = (said["findings"][i] for i in number["findings"])
        assert reason["verdict"] == UNBACKED and reason["numbers"] == [number["name"]] and number["name"] in reason["message"]


def recomputed(folder: Path, level: str, *patterns: str) -> Audit:
    from backtrail.cli.audit import recomputations

    return audit(folder, recomputations((level,), patterns or ("*",), folder))


def test_a_metric_forged_with_its_whole_ledger_is_found_by_computing_it_again(ledger: Path) -> None:
    path = ledger / "results/metrics/disback/seed0.json"
    metric = json.loads(path.read_text(encoding="utf-8"))
    metric["values"]["student"]["nfe1"]["fd_classifier"] *= 1 - 1e-15
    path.write_text(json.dumps(metric, sort_keys=True, indent=2) + "\n", encoding="utf-8")
    rewrite_ledger(ledger)
    assert audit(ledger).exit_code == 0, "the forger has left no contradiction"
    done = recomputed(ledger, "metric", "metrics@*", "tables")
    (finding,) = [finding for finding in done.findings if finding.subject == "results/metrics/disback/seed0.json"]
    assert done.exit_code == 30 and "fd_classifier: stored" in finding.message
    assert "results/samples/disback/seed0.safetensors" in finding.link
    assert any("results.csv:disback" in one.number.name for one in done.resting_on(finding))
    verdicts = {one.verdict for one in done.judged if one.number.file == "results/metrics/disback/seed1.json"}
    assert verdicts == {"recomputed"}


def test_a_table_and_a_picture_forged_with_their_whole_ledger_are_found_by_rendering_again(ledger: Path) -> None:
    table = ledger / "reports/tables/results.csv"
    row = re.search(r"^.*disback,1,1,True,2,.*$", table.read_text(encoding="utf-8"), re.MULTILINE)[0]
    replace(table, row, re.sub(r"\d(?=\.)", lambda digit: str((int(digit[0]) + 1) % 10), row, count=1))
    replace(ledger / "reports/figures/nfe.svg", "<path", "<path ")
    rewrite_ledger(ledger)
    assert audit(ledger).exit_code == 0
    assert {finding.subject for finding in recomputed(ledger, "metric", "tables").findings} == {"reports/tables/results.csv"}
    assert {finding.subject for finding in recomputed(ledger, "figure", "figures").findings} == {"reports/figures/nfe.svg"}


def test_the_page_of_the_run_is_written_again_from_the_records(ledger: Path) -> None:
    assert not recomputed(ledger, "figure", "ledger").findings
    replace(ledger / RUN_PAGE, "CPU seconds", "CPU  seconds")
    rewrite_ledger(ledger)
    assert audit(ledger).exit_code == 0
    (finding,) = recomputed(ledger, "figure", "ledger").findings
    assert (finding.subject, finding.verdict) == (RUN_PAGE, STALE) and finding.cure == "dvc repro -f ledger"


@pytest.mark.parametrize("error", [KeyError("guidance"), UserError("nothing to show"), TypeError("no number"), AttributeError("no text")])
def test_what_this_version_cannot_draw_is_a_finding_and_no_traceback(tmp_path: Path, error: Exception) -> None:
    """A suite of an earlier version, or one whose tables were made to fail: its columns are not those that the report reads."""

    def fails(*_: object) -> None:
        raise error

    makes = {"figures": f"{FIGURES}/nfe.png", "report": PAGE}
    stages = {name: Stage(name, f"python src/backtrail {name}", {}, {}, {path: Entry(path, "", 0)}) for name, path in makes.items()}
    ledger = Ledger(tmp_path, stages, dict.fromkeys(stages), {})
    found, right, _ = figures(ledger, set(), ("*",), Renderers({FIGURES: fails}, {PAGE: fails}))
    said = {finding.subject: finding.message for finding in found}
    assert right == set() and {"stage:figures", PAGE} <= said.keys() and all(finding.verdict == BROKEN for finding in found)
    told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    assert said[PAGE] == f"{PAGE} cannot be rendered: {told}" and said["stage:figures"] == f"nfe cannot be rendered: {told}"


@pytest.mark.slow
def test_data_forged_with_its_whole_ledger_is_found_by_running_the_stage_again(ledger: Path) -> None:
    flip(ledger / "data/dataset.safetensors")
    rewrite_ledger(ledger)
    assert audit(ledger).exit_code == 0
    done = recomputed(ledger, "stage", "dataset")
    assert [finding.subject for finding in done.findings] == ["data/dataset.safetensors"] and done.exit_code == 30


@pytest.mark.slow
def test_the_page_is_the_same_when_its_stage_runs_again(ledger: Path) -> None:
    record = (ledger / "results/records/report.json").read_bytes()
    done = recomputed(ledger, "stage", "report")
    assert done.findings == [] and any("report run again" in note for note in done.notes)
    assert (ledger / "results/records/report.json").read_bytes() == record


def test_a_number_quoted_in_prose_is_held_against_the_table(ledger: Path) -> None:
    from backtrail.ledger.ledger import open_ledger
    from backtrail.ledger.numbers import find

    (number,) = find(open_ledger(ledger), "reports/tables/results.csv:disback,fd")
    right, wrong = f"{float(number.text):.2f}", f"{float(number.text) - 0.01:.2f}"
    readme = ledger / "README.md"
    readme.write_text(f"DisBack reaches <!-- number reports/tables/results.csv:disback,fd -->{right}<!-- /number -->.", encoding="utf-8")
    assert audit(ledger).exit_code == 0
    replace(readme, right, wrong)
    done = audit(ledger)
    (finding,) = done.findings
    assert done.exit_code == 30 and finding.subject.startswith("README.md:") and number.text in finding.message
    assert [one.verdict for one in done.judged if one.number.file == "README.md"] == [BROKEN]
