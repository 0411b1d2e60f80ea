"""`backtrail plan`: work counted from the parameters against the papers' own hours, and what would be fetched."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from backtrail.cli.compute_cost import count, forward_gflop, inception_gflop, network
from backtrail.cli.plan import A100_HALF_TFLOPS, command, files, operations, rate_of, summary
from backtrail.ledger.ledger import parse_lock
from backtrail.parameters.suite import read_suite

ROOT = Path(__file__).parents[2]
SUITES = {name: read_suite(ROOT / f"suites/{name}/params.yaml") for name in ("cifar10", "imagenet64", "cifar10-jpeg")}


def forwards(name: str) -> dict[str, float]:
    """Forwards per job, by the first job's name."""
    return {item.names[0]: item.forwards for item in count(SUITES[name])}


HOURS = [("cifar10", "sfd", 0.64), ("cifar10", "sfd-v", 4.26), ("imagenet64", "sfd", 3.34), ("imagenet64", "sfd-v", 23.62)]


@pytest.mark.parametrize(("suite", "method", "hours"), HOURS)
def test_training_hours_are_the_papers(suite, method, hours):
    """SFD's Tables 2 and 3: four runs of two networks by one rate. The paper's hours leave the evaluations of our curves out."""
    p = SUITES[suite].trajectory_distillation[method]
    evaluations = (p.rounds // p.evaluate_every + 1 + bool(p.rounds % p.evaluate_every)) * SUITES[suite].metrics.n_curve * 2
    counted = forwards(suite)[f"trajectory-distillation@{method}-0"] - evaluations
    assert counted * forward_gflop(network(SUITES[suite])) / 1000 / A100_HALF_TFLOPS / 3600 == pytest.approx(hours, rel=0.12)


def test_forwards_are_the_cost_models():
    """SFD: K (NFE + 1) + 3 NFE per trajectory; Algorithm 1: K + 3; Diff-Instruct and DisBack: 8 per update, 4 per recording step."""
    suite, found = SUITES["cifar10"], forwards("cifar10")
    n_curve, n_samples = 5000, 3 * 50_000
    assert found["trajectory-distillation@sfd-0"] == 1563 * 128 * (4 * 3 + 3 * 2) + 17 * n_curve * 2
    assert found["trajectory-distillation@trajectory-0"] == 3126 * 128 * (4 + 3) + 17 * n_curve * 2
    updates = suite.score_distillation["disback"].updates
    kept = len({*range(0, updates + 1, 1000), *suite.score_distillation["disback"].snapshots})
    assert found["score-distillation@disback-0"] == 8 * 128 * updates + kept * n_curve
    assert found["path@disback-0"] == found["path-from-sfd-nfe1@sfd-disback-0"] == 4 * 128 * 200 + 21 * 2 * 256
    # The second stage's teacher makes K steps per step of its student, but for the analytical one: 5 forwards, and 3 for the update.
    assert found["second-stage-distillation@sfd-nfe1-0"] == 15625 * 128 * (5 + 3) + 33 * n_curve
    assert found["samples@sfd-nfe1-0"] == found["samples@sfd-disback-0"] == n_samples
    assert found["samples@sfd-v-0"] == n_samples * sum(n - 2 for n in (4, 5, 6, 7, 3, 8, 9, 10))
    assert found["teacher-samples"] == n_samples * (34 + 3 * sum(range(3, 11)))
    assert forwards("cifar10-jpeg")["teacher"] == 3 * 200_000 * 128 and "teacher" not in found


def test_inception_reads_every_sample_once_per_resizing():
    images = {item.names[0]: item.features for item in count(SUITES["cifar10"])}
    readers, samplings = 2, 3  # FID's own and clean-fid's resizing; three sets of 50,000
    assert images["metrics@sfd-v-0"] == readers * samplings * 8 * 50_000
    assert images["teacher-metrics"] == readers * samplings * 25 * 50_000
    assert inception_gflop() == pytest.approx(11.42, abs=0.01)


def test_the_rate_is_given_or_measured_or_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counted = list(count(SUITES["cifar10"]))
    table = operations(counted, per_forward=2.0, per_image=11.0)
    assert rate_of(table, 3.0)[0] == 3.0 and rate_of(table, None)[0] == A100_HALF_TFLOPS
    Path("results/records").mkdir(parents=True)
    Path("results/records/trajectory-distillation@sfd-1.json").write_text(
        json.dumps({"seconds": 25.0, "gpu_seconds": 100.0}), encoding="utf-8"
    )
    table = operations(counted, per_forward=2.0, per_image=11.0)
    row = table.set_index("stage").loc["trajectory-distillation@sfd"]
    assert (row["jobs"], row["done"], row["seconds"]) == (3, 1, 25.0)
    rate, origin = rate_of(table, None)
    assert rate == pytest.approx(forwards("cifar10")["trajectory-distillation@sfd-0"] * 2 / 1000 / 100) and "on a GPU" in origin
    Path("results/records/trajectory-distillation@sfd-1.json").write_text(
        json.dumps({"seconds": 9.0, "gpu_seconds": 0.0}), encoding="utf-8"
    )
    assert rate_of(operations(counted, 2.0, 11.0), None)[0] == A100_HALF_TFLOPS  # hours of a CPU are none of a GPU


def test_the_network_of_an_imported_teacher_is_read_where_it_lies(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("backtrail.layout.TEACHER", "nowhere")
    done = CliRunner().invoke(command, [], catch_exceptions=False)
    assert "Work: the network has 0.5 M weights" in done.output and "score-distillation@disback" in done.output


def test_files_are_here_supplied_cached_or_to_be_got(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = SUITES["cifar10"]
    table = files(suite).set_index("file")
    assert list(table["state"]) == [
        "from www.cs.toronto.edu",
        "from nvlabs-fi-cdn.nvidia.com",
        "from github.com",
        "from nvlabs-fi-cdn.nvidia.com",
        "from www.cs.cmu.edu",
    ]
    assert summary(files(suite)) == f"5 of 5 files to get: {170_052_171 + 95_628_359:,} bytes, and 3 of unknown size"
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/cifar-10-binary.tar.gz").write_bytes(b"12345")
    Path("mine.pkl").write_bytes(b"123")
    supplied = suite.model_copy(update={"teacher": suite.teacher.model_copy(update={"local": "mine.pkl"})})
    digest = hashlib.md5(b"folder").hexdigest() + ".dir"
    lock = {"schema": "2.0", "stages": {"fetch-inception": {"cmd": "x", "outs": [{"path": "data/inception", "md5": digest, "size": 3}]}}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    cache = Path(".dvc/cache/files/md5", digest[:2], digest[2:])
    cache.parent.mkdir(parents=True)
    cache.touch()
    table = files(supplied).set_index("file")
    assert table.loc["cifar-10-binary.tar.gz", "state"] == "here" and table.loc["cifar-10-binary.tar.gz", "bytes"] == 5
    assert table.loc["edm-cifar10-32x32-uncond-vp.pkl", "state"] == "supplied in mine.pkl"
    assert table.loc["edm-cifar10-32x32-uncond-vp.pkl", "bytes"] == 3
    assert table.loc["cifar10-32x32.npz", "state"].startswith("in DVC's cache")
    assert summary(files(supplied)) == "0 of 5 files to get: 0 bytes"


def test_a_file_that_lies_in_git_is_said_with_its_size(monkeypatch):
    """The built-in suite's teacher, before `fetch-teacher` has put it in its place."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("backtrail.layout.FETCHED_TEACHER", "nowhere")
    table = files(read_suite())
    table = table[table["stage"] == "fetch-teacher"]
    lies = ROOT / "data/teachers/fashion-mnist"
    assert set(table["state"]) == {"supplied in data/teachers/fashion-mnist"} and "teacher.safetensors" in set(table["file"])
    assert list(table["bytes"]) == [(lies / name).stat().st_size for name in table["file"]]


@pytest.mark.parametrize("text", ["{}", "[]", "", '{"seconds": 1.0, "gpu_', '{"seconds": null, "gpu_seconds": 0.0}'])
def test_a_stage_whose_record_is_damaged_is_still_to_do(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results/records").mkdir(parents=True)
    Path("results/records/trajectory-distillation@sfd-1.json").write_text(text, encoding="utf-8")
    table = operations(list(count(SUITES["cifar10"])), 2.0, 11.0).set_index("stage")
    assert table.loc["trajectory-distillation@sfd", "done"] == 0 and table.loc["trajectory-distillation@sfd", "seconds"] == 0


def test_in_a_clone_the_hours_are_those_of_the_ledger_that_git_keeps(monkeypatch):
    """Nothing of it counts as done here."""
    monkeypatch.chdir(ROOT / "suites/study")
    counted = list(count(read_suite()))
    table = operations(counted, per_forward=1.0, per_image=1.0).set_index("stage")
    assert table.loc["score-distillation@disback", "seconds"] > 600 and table.loc["score-distillation@disback", "done"] in (0, 6)
    assert (table.index != "").all() and table.index.is_unique


def test_jobs_of_several_extractors_are_called_by_their_stage():
    table = operations(list(count(SUITES["cifar10"])), per_forward=1.0, per_image=1.0)
    assert table[table["stage"] == "reference"]["jobs"].tolist() == [2]


@pytest.mark.parametrize("rate", ["nan", "inf", "0", "1e-320", "-1"])
def test_a_rate_that_is_none_is_refused(rate, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(command, ["--tflops", rate])
    assert done.exit_code != 0 and "--tflops" in f"{done.output}{done.exception}"


def test_the_lock_is_parsed_once_and_what_is_outside_is_looked_for_once(tmp_path, monkeypatch):
    for name in ("params.yaml", "dvc.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    parsed, looked = [], []
    monkeypatch.setattr("backtrail.cli.plan.parse_lock", lambda text: parsed.append(text) or parse_lock(text))
    monkeypatch.setattr("backtrail.cli.plan.files", lambda suite: looked.append(suite) or files(suite))
    assert "To fetch:" in CliRunner().invoke(command, [], catch_exceptions=False).output
    assert len(parsed) <= 1 and len(looked) == 1


def test_the_command_says_all_of_it_and_does_nothing(monkeypatch, tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "suites/imagenet64/params.yaml").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(command, ["--tflops", "100"], catch_exceptions=False).output
    for part in ("MISSING: to be got by hand", "295.9 M weights", "100 TFLOP/s (given)", "score-distillation@disback", "(an estimate)"):
        assert part in shown
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
