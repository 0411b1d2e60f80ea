"""The suite of the ring: its parameters, its commands at a tiny size, its exact denoiser, and the verdicts on tables made by hand."""

import copy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from backtrail.artifacts import load_json
from backtrail.data.ring import SHAPE, Ring
from backtrail.laid_down import declared_stages, lay_down
from backtrail.metrics.points import PointsDenoiser
from backtrail.parameters.ring import RingEvaluation, RingSuite
from backtrail.parameters.suite import read_suite
from backtrail.report.ring import RingResults, end_points, ring_data
from backtrail.report.ring_claims import judge_ring, ring_sentence
from backtrail.report.verdicts import HELD, NOT_HELD, NOT_RUN, UNDECIDED
from backtrail.tables import load_csv
from unit.refusals import as_yaml, sentence_for

VALID = yaml.safe_load((Path(__file__).parents[2] / "suites/ring/params.yaml").read_text(encoding="utf-8"))
refused = partial(sentence_for, VALID)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("data", {"name": "cifar10"}, ["unknown key data", "ring, runtime"]),
        ("ring.radius", -1.0, ["ring.radius = -1.0", "greater than or equal to 0.000001"]),
        ("ring.modes", 1, ["ring.modes = 1", "greater than or equal to 2"]),
        ("teacher.net", {"kind": "unet"}, ["teacher.net of a ring is {kind: mlp"]),
        ("teacher", {"source": "own-edm"}, ["unknown key teacher.source"]),
        ("score_distillation.disback.snapshots", [0, 500], ["disback.snapshots must hold 0 and another", "detour_updates = 150"]),
        ("score_distillation.disback.evaluate_every", 500, ["disback has fewer evaluations than evaluation.window = 5"]),
        ("evaluation.window", 0, ["evaluation.window = 0"]),
        ("seeds", [1, 1], ["seeds = [1, 1]: 1 stands in the list twice"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(tmp_path: Path, key: str, value: object, expected: list[str]) -> None:
    sentence = refused(tmp_path, key, value)
    assert all(part in sentence for part in expected) and "\n" not in sentence, sentence


def test_the_methods_differ_in_the_path_alone() -> None:
    values = read_suite(Path(__file__).parents[2] / "suites/ring/params.yaml").score_distillation
    of_the_path = {"recording", "node_updates", "target", "fake_start"}
    assert len({str(p.model_dump(exclude=of_the_path)) for p in values.values()}) == 1


def test_the_denoiser_of_points_is_that_of_the_law_they_are_drawn_from() -> None:
    ring = Ring()
    denoiser, x = PointsDenoiser(ring.points(20_000, 0, "test")), ring.points(200, 1, "test")
    for sigma in (0.2, 1.0):
        level = torch.tensor(sigma)
        noisy = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        error = (denoiser(noisy, level) - ring.denoise(noisy, level)).flatten(1).norm(dim=1).mean().item()
        assert error < 0.1 * sigma**2 and denoiser(noisy, level).shape == (200, *SHAPE)
    two = PointsDenoiser(torch.tensor([1.0, -1.0], dtype=torch.float64).reshape(2, 1, 1, 1))
    at = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(two(at, torch.tensor(0.5)), torch.tanh(at / 0.25), rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of two methods and two seeds that has run, a hundredth of the size."""
    folder, values = tmp_path_factory.mktemp("ring"), copy.deepcopy(VALID)
    small = {"updates": 8, "batch": 16, "evaluate_every": 2, "snapshots": [0, 4]}
    recording = {**values["score_distillation"]["disback"]["recording"], "steps": 4, "nodes": 3}
    methods = {"diff-instruct": {}, "disback": {"recording": recording, "node_updates": 2}}
    values["score_distillation"] = {name: values["score_distillation"][name] | small | of for name, of in methods.items()}
    values["teacher"] |= {"steps": 20, "batch": 16, "net": {"kind": "mlp", "width": 16, "layers": 1}}
    values["evaluation"] |= {"n_points": 50, "n_floor": 2, "teacher_num_steps": 3, "window": 2, "mismatch_points": 20}
    values["seeds"] = [0, 1]
    (folder / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    lay_down(folder)
    runs = [["ring-run", "--stage", f"ring-run@{method}-{seed}"] for method in methods for seed in (0, 1)]
    commands = [["ring-teacher"], *runs, ["ring-figure"], ["ledger"]]
    code = f"from backtrail.cli import backtrail\nfor command in {commands!r}: backtrail(command, standalone_mode=False)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_commands_leave_what_dvc_declares(folder: Path) -> None:
    for stage in declared_stages(folder):
        assert stage.name == "code" or all((folder / out).exists() for out in stage.outs), stage
    assert not list(folder.glob(".scratch/*"))


def test_what_a_run_measures(folder: Path) -> None:
    curve, snapshots = (load_csv(folder / f"results/{kind}/disback/seed1.csv") for kind in ("curves", "mismatch"))
    assert curve["update"].tolist() == [0, 2, 4, 6, 8] and (curve["total_updates"] - curve["update"]).unique().tolist() == [4]
    # A row has the target of its last update: two updates for each of the nodes 2 and 1, then the teacher.
    assert curve["node"].tolist() == [2, 2, 1, 0, 0]
    assert snapshots["update"].tolist() == [0, 4, 8] and snapshots["node"].tolist() == [2, 1, 0] and (snapshots["sigma"] == 0.2).all()
    assert (curve["sliced_w2"] > 0).all() and curve["sliced_w2"][0] == snapshots["sliced_w2"][0]
    record = load_json(folder / "results/records/ring-run@disback-1.json")
    assert (
        record["seeds"] == [1]
        and record["parameters"]["ring"]["modes"] == 8
        and list(record["inputs"]) == ["results/teacher/teacher.safetensors"]
    )


def test_an_absent_teacher_names_the_cure(folder: Path, tmp_path: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    command = [sys.executable, "-m", "backtrail", "ring-run", "--stage", "ring-run@disback-0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "teacher.safetensors is missing: run the stage that makes it" in done.stderr


def results(ours: float, seeds: int = 3, mismatch: float = 1.0) -> RingResults:
    """Diff-Instruct ends at 0.05 and DisBack at `ours`; the mismatch of DisBack is `mismatch`, that of Diff-Instruct 2."""
    curves, snapshots = [], []
    for method, end, degree in (("diff-instruct", 0.05, 2.0), ("disback", ours, mismatch)):
        for seed in range(seeds):
            for update in range(0, 500, 100):
                place = {"method": method, "seed": seed, "update": update, "total_updates": update + 100 * (method == "disback")}
                place["node"] = int(method == "disback" and update < 200)
                curves.append(place | {"sliced_w2": 0.4 if update < 200 else end + 0.001 * seed})
                degrees = {f"{measure}_mean": degree + 0.1 * seed for measure in ("raw", "excess", "difference")}
                snapshots.append(place | {"sliced_w2": 0.4 + 0.1 * (method != "disback") * (update == 100)} | degrees)
    evaluation = RingEvaluation(**VALID["evaluation"] | {"window": 2})
    return RingResults("a ring", ["diff-instruct", "disback"], pd.DataFrame(curves), pd.DataFrame(snapshots), 0.02, 0.03, evaluation)


def verdicts(of: RingResults) -> dict[str, str]:
    return judge_ring(of).set_index("claim")["verdict"].to_dict()


def test_end_points_are_means_of_the_last_evaluations_that_all_reach() -> None:
    of = results(0.04)
    at, ends = end_points(of, ["diff-instruct", "disback"], "update")
    assert at == 400 and ends["disback", 1] == pytest.approx(0.041) and ends["diff-instruct", 0] == pytest.approx(0.05)
    at, ends = end_points(of, ["diff-instruct", "disback"], "total_updates")
    assert at == 400 and ends["disback", 0] == pytest.approx(0.04)  # at its own updates 200 and 300
    data = ring_data(of).set_index(["panel", "method"])
    assert data.loc["end"].loc["disback", "max"] == pytest.approx(0.042) and data.loc["start"]["update"].max() == 100


def test_verdicts_follow_the_numbers() -> None:
    good = verdicts(results(0.04))
    assert all(good[f"lower-mismatch-{where}{measure}"] == HELD for where in ("", "on-nodes-") for measure in ("raw", "excess"))
    assert good["end"] == good["end-charged"] == good["no-detour"] == good["detour-without-nodes"] == good["shorter-detour"] == HELD
    assert good["nodes-alone"] == good["warm-start"] == good["mismatch-returns"] == NOT_RUN
    bad = verdicts(results(0.06, mismatch=3.0))
    assert bad["end"] == bad["end-charged"] == bad["lower-mismatch-raw"] == NOT_HELD
    assert verdicts(results(0.04, seeds=2))["end"] == UNDECIDED


def test_the_sentence_is_made_of_the_numbers() -> None:
    of = results(0.04)
    sentence = ring_sentence(of, judge_ring(of))
    assert "On a ring, 3 seeds" in sentence and "after 400 updates" in sentence and "teacher 0.03, floor 0.02" in sentence
    assert "Diff-Instruct 0.0510 ± 0.0010, DisBack 0.0410 ± 0.0010" in sentence
    held = sentence.split("held: ")[1].split(";")[0]
    assert "end" in held and "no detour" in held and "not run" not in sentence
    worse = results(0.06)
    assert "end" in ring_sentence(worse, judge_ring(worse)).split("not held: ")[1].split(";")[0]


def test_the_ring_is_refused_where_images_are_needed(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "backtrail", "plan"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2 and "`backtrail plan` is for suites of images" in done.stderr
    assert isinstance(read_suite(folder / "params.yaml"), RingSuite)
