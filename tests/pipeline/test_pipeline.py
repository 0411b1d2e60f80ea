"""The whole chain on the tiny suite: what each stage writes, that it writes the same again, and that a killed one is taken up."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from backtrail.artifacts import file_digest, load_json
from backtrail.audit.left_out import cells
from backtrail.errors import UserError
from backtrail.nets.build import load_denoiser
from backtrail.parameters.suite import read_suite
from backtrail.running import torch_stage
from backtrail.tables import load_csv
from backtrail.tensors import load_tensors, tensors_digest
from pipeline.conftest import TinySuite, files


def test_each_stage_writes_what_it_declares_and_nothing_else(suite: TinySuite) -> None:
    for run in suite.runs.values():
        assert all(out.exists() for out in run.outs), run.name
        stray = [path for path in run.written if not any(path == out or out in path.parents for out in run.outs)]
        # The fetched images' lock, beside data/raw.
        assert not [path for path in stray if ".raw.partial" not in path.parts], run.name


def test_no_resume_state_is_left(suite: TinySuite) -> None:
    assert not list((suite.folder / ".scratch").glob("*"))


def test_records_tell_what_ran_and_nothing_private(suite: TinySuite) -> None:
    for name in suite.runs.keys() - {"code", "ledger"}:  # which keep the books, and leave no record themselves
        record = load_json(suite.folder / f"results/records/{name}.json")
        assert record["stage"] == name
        assert record["commit"] is not None and record["seconds"] >= 0
        for path, digest in record["outputs"].items():
            if (suite.folder / path).is_file():
                assert file_digest(suite.folder / path) == digest, path
        text = json.dumps(record)
        assert str(suite.folder) not in text and str(Path.home()) + "/" not in text and os.uname().nodename not in text.split('"')


# Not `figures`: another process renders those to the same bytes in tests/unit/test_report_figures.py.
STAGES_TO_REPEAT = ["teacher", "path@disback-0", "score-distillation@disback-0", "trajectory-distillation@sfd-v-0", "report"]


@pytest.mark.parametrize("name", STAGES_TO_REPEAT)
def test_a_stage_run_again_writes_the_same_bytes(suite: TinySuite, name: str) -> None:
    run = suite.runs[name]
    outputs = [path for path in files(suite.folder) if any(path == out or out in path.parents for out in run.outs)]
    before = {path: file_digest(path) for path in outputs if "records" not in path.parts}
    suite.run(*run.arguments)
    assert {path: file_digest(path) for path in before} == before


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("teacher", signal.SIGTERM),
        ("score-distillation@disback-0", signal.SIGKILL),
        pytest.param("trajectory-distillation@trajectory-0", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_stage_that_a_signal_ends_leaves_nothing_that_looks_finished_and_ends_with_the_same_bytes(
    suite: TinySuite, name: str, number: signal.Signals
) -> None:
    """Stopped, it saves its state; killed, it leaves nothing at all or the whole file."""
    run = suite.runs[name]
    out = next(out for out in run.outs if out.suffix == ".safetensors")
    before = file_digest(out)
    out.unlink()
    command = [sys.executable, "-m", "backtrail", *run.arguments]
    process = subprocess.Popen(command, cwd=suite.folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 1 of") or line.startswith("step 3 of"):
            process.send_signal(number)
            break
    stderr = process.stderr.read()
    code = process.wait()
    assert code in (0, 75 if number == signal.SIGTERM else -number), stderr  # a run so short may end before the signal is looked at
    assert file_digest(out) == before if out.exists() else code != 0
    assert code != 75 or not out.exists()
    if code == 75:
        assert "stopped by SIGTERM after step" in stderr
        assert list((suite.folder / ".scratch").glob("*/step-*.safetensors"))
    suite.run(*run.arguments)
    assert file_digest(out) == before
    assert not list((suite.folder / ".scratch").glob("*"))


def test_the_path_begins_with_the_teacher_and_the_curve_ends_on_it(suite: TinySuite) -> None:
    folder = suite.folder / "results"
    teacher = tensors_digest(load_denoiser(folder / "teacher/teacher.safetensors").state_dict())
    path = load_csv(folder / "paths/disback/seed0/path.csv")
    assert path["digest"][0] == teacher and path["digest"].is_unique
    curve = load_csv(folder / "curves/disback/seed0.csv")
    assert curve["node"].iloc[-1] == 0 and curve["node"].is_monotonic_decreasing
    assert list(curve["total_updates"] - curve["update"]) == [path["step"].iloc[-1]] * len(curve)


def test_metrics_hold_their_protocol(suite: TinySuite) -> None:
    metrics = load_json(suite.folder / "results/metrics/sfd-v/seed0.json")
    measured = {name for nfe in metrics["values"]["student"].values() for name in nfe}
    assert measured == {entry["metric"] for entry in metrics["protocol"]}
    for entry in metrics["protocol"]:
        reference = suite.folder / f"results/reference/{entry['extractor']}.safetensors"
        assert entry["reference_sha256"] == file_digest(reference)
        assert entry["seeds"] == [0, 64]


def test_tables_hold_the_measured_values(suite: TinySuite) -> None:
    """A cell of the table against the metric file, by another way than the report's own code."""
    table = pd.read_csv(suite.folder / "reports/tables/results.csv")
    value = load_json(suite.folder / "results/metrics/disback/seed0.json")["values"]["student"]["nfe1"]["fd_efficientnet_lite0"]
    row = table[(table["method"] == "disback") & (table["nfe"] == 1)]
    assert len(row) == 1
    assert float(row.filter(regex="fd_efficientnet_lite0.*mean").iloc[0, 0]) == pytest.approx(value, rel=1e-8)


def test_the_table_has_the_rows_that_params_declare(suite: TinySuite) -> None:
    """With those of a second stage, and of a student that starts from another's."""
    table = pd.read_csv(suite.folder / "reports/tables/results.csv")
    found = set(zip(table["kind"], table["method"], table["nfe"], table["guidance"], strict=True))
    assert set(cells(read_suite(suite.folder / "params.yaml"))) == found
    assert {"sfd-one", "sfd-disback"} <= set(table["method"])


def test_wrong_parameters_stop_a_stage_before_it_works(suite: TinySuite, tmp_path: Path) -> None:
    text = (suite.folder / "params.yaml").read_text(encoding="utf-8").replace("sigma_init: 2.5", "sigma_init: -1.0")
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "dvc.yaml").write_bytes((suite.folder / "dvc.yaml").read_bytes())
    done = subprocess.run([sys.executable, "-m", "backtrail", "fetch"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "sigma_init = -1.0: should be greater than or equal to 0.000001" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "dvc.yaml"}


def test_unknown_method_is_named(suite: TinySuite) -> None:
    known = "declares no stage 'score-distillation@disbakc-0'; it has score-distillation@diff-instruct-0"
    with pytest.raises(UserError, match=known):
        suite.run("score-distillation", "--stage", "score-distillation@disbakc-0")


def test_a_stage_of_another_command_is_refused(suite: TinySuite) -> None:
    with pytest.raises(UserError, match="is run by `backtrail mismatch`, not by `backtrail path`"):
        suite.run("path", "--stage", "mismatch@disback-0")


def test_a_truncated_data_file_is_named(suite: TinySuite) -> None:
    path = suite.folder / "data/dataset.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-100])
        with pytest.raises(UserError, match=r"data/dataset\.safetensors is not a whole safetensors file"):
            suite.run("teacher")
    finally:
        path.write_bytes(whole)


def test_samples_are_one_archive_of_bytes(suite: TinySuite) -> None:
    tensors, metadata = load_tensors(suite.folder / "results/samples/sfd-v/seed0.safetensors")
    assert set(tensors) == {f"student/nfe{n - 2}" for n in (4, 5, 6, 7, 3, 8)}
    assert all(str(images.dtype) == "torch.uint8" and images.shape == (64, 1, 16, 16) for images in tensors.values())
    assert metadata["trained_nfe"] == [2, 3, 4, 5]


@pytest.mark.slow
def test_a_stage_in_two_processes_ends_where_one_does(suite: TinySuite) -> None:
    run = suite.runs["path@disback-0"]
    last = sorted(run.outs[0].glob("node-*.safetensors"))[-1]
    kept = {path: path.read_bytes() for path in files(suite.folder) if any(path == out or out in path.parents for out in run.outs)}
    alone = load_denoiser(last).state_dict()
    environment = os.environ | {"BACKTRAIL_PROCESSES": "2", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "backtrail", *run.arguments]
    done = subprocess.run(command, cwd=suite.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    together = load_denoiser(last).state_dict()
    assert load_json(suite.folder / "results/records/path@disback-0.json")["notes"]["processes"] == 2
    for path, content in kept.items():
        path.write_bytes(content)
    # Adam makes float error of vanishing gradients visible: the weights agree to its step, not to float error (test_data_parallel.py).
    distance = sum((alone[name] - together[name]).square().sum() for name in alone) / sum(value.square().sum() for value in alone.values())
    assert distance.sqrt() < 1e-2


def test_a_stage_that_is_not_trained_starts_no_processes(suite: TinySuite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKTRAIL_PROCESSES", "2")
    monkeypatch.setattr(torch_stage, "launch", None)
    suite.run("samples", "--stage", "samples@sfd-0")
    assert load_json(suite.folder / "results/records/samples@sfd-0.json")["processes"] == 1


def test_a_number_of_processes_that_is_none_is_refused(suite: TinySuite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKTRAIL_PROCESSES", "two")
    with pytest.raises(UserError, match="BACKTRAIL_PROCESSES = 'two' should be a number of processes"):
        suite.run("path", "--stage", "path@disback-0")
