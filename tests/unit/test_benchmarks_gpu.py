"""The check of a GPU, rehearsed on the CPU: rows outlive cuts and errors, errors are seen, and no speed passes or fails a test."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu  # noqa: E402
import gpu_fast  # noqa: E402
import gpu_real  # noqa: E402
import gpu_right  # noqa: E402
from gpu_results import Group, Results, Settings, markdown_rows, measure  # noqa: E402
from updates import CASES  # noqa: E402

from backtrail.parameters.suite import read_suite  # noqa: E402

CPU = torch.device("cpu")
SETTINGS = Settings("cpu", True, ROOT / "params.yaml", 0.0)
COMMAND = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--seconds", "0", "--parts", "right", "fast"]


def rows_of_all_kinds(settings):
    def wrong():
        raise ValueError("first line\nsecond line")

    return {"good": lambda: {"value": 1.0}, "wrong": wrong, "dies": lambda: os._exit(9), "slow": lambda: time.sleep(60), "last": dict}


def refused(settings):
    raise RuntimeError("no net")


def test_a_row_that_fails_is_a_result_and_the_run_goes_on(tmp_path):
    groups = [Group(("good", "wrong", "dies", "slow", "last"), rows_of_all_kinds, 2.0), Group(("a", "b"), refused)]
    results, said = Results(tmp_path / "x.json", {"name": "it"}), []
    assert measure(results, groups, SETTINGS, time.monotonic() + 60, said.append)
    expected = {
        "good": {"value": 1.0}, "wrong": {"failed": "ValueError: first line"}, "dies": {"failed": "its process ended with 9"},
        "slow": {"failed": "no result after 2 s"}, "last": {}, "a": {"failed": "RuntimeError: no net"},
        "b": {"failed": "RuntimeError: no net"},
    }  # fmt: skip
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"about": {"name": "it"}, "rows": expected}
    assert len(said) == 7


def test_a_second_call_computes_what_is_missing_and_no_more(tmp_path):
    def counting(settings):
        def call():
            with open(tmp_path / "calls", "a", encoding="utf-8") as file:
                file.write("x")
            return {}

        return {"one": call, "two": call}

    def results():
        return Results(tmp_path / "x.json", {"name": "it"})

    group = [Group(("one", "two"), counting)]
    assert not measure(results(), group, SETTINGS, time.monotonic(), print) and not (tmp_path / "calls").exists()
    results().add("one", {"value": 3})
    assert measure(results(), group, SETTINGS, time.monotonic() + 60, print)
    assert (tmp_path / "calls").read_text(encoding="utf-8") == "x" and results().rows == {"one": {"value": 3}, "two": {}}
    with pytest.raises(SystemExit, match=r"is about .*'it'.*'other'"):
        Results(tmp_path / "x.json", {"name": "other"})


def test_the_largest_error_is_that_of_the_worst_kind_of_values():
    expected = {"module/a/w": torch.tensor([3.0, 4.0]), "optimiser/a/0/exp_avg": torch.tensor([1e-6]), "optimiser/a/0/step": torch.ones(1)}
    found = expected | {"optimiser/a/0/exp_avg": torch.tensor([1.1e-6]), "module/a/w": torch.tensor([3.0, 4.05])}
    error, worst = gpu_right.largest_error(found, expected)
    assert error == pytest.approx(0.1, rel=1e-4) and worst == "optimiser a exp_avg"
    assert not gpu_right.compared(found, expected, 0.05)["within"] and gpu_right.compared(found, expected, 0.2)["within"]
    broken = gpu_right.compared(expected | {"module/a/w": torch.tensor([3.0, float("nan")])}, expected, 1e9)
    assert (broken["within"], broken["error"], broken["of"]) == (False, None, "module a")
    with pytest.raises(ValueError, match="other values"):
        gpu_right.largest_error({}, expected)


def test_a_device_that_computes_something_else_is_seen(monkeypatch):
    """Its student has one layer whose weights are 5 % off."""
    rows, calls = gpu_right.updates(SETTINGS), []
    started = gpu_right.started

    def off(s, method, device):
        case = started(s, method, device)
        calls.append(method)
        if len(calls) == 1:
            with torch.no_grad():
                next(iter(case.state.modules.values())).net.map_layer0.weight.mul_(1.05)
        return case

    monkeypatch.setattr(gpu_right, "started", off)
    assert not rows["diff-instruct: against the CPU"]()["within"]
    assert rows["diff-instruct: against the CPU"]() == {"error": 0.0, "of": "module student", "bound": 1e-3, "within": True}


def test_shortened_products_differ_from_float32_and_stay_within_their_bound():
    rows = gpu_right.shortened(SETTINGS, ("bfloat16", "float16"))
    errors = {name: rows[f"disback: {name} against float32"]() for name in ("bfloat16", "float16")}
    assert all(row["within"] for row in errors.values()) and errors["bfloat16"]["error"] > errors["float16"]["error"] > 0


def test_without_a_gpu_it_says_so_and_fails(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = subprocess.run([*COMMAND[:2], "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3 and done.stderr.count("\n") == 1 and "no GPU" in done.stderr and not list(tmp_path.iterdir())


def test_a_speed_is_images_by_time_and_its_share_that_of_a_known_peak(monkeypatch):
    row = gpu_fast.throughput(CPU, "tf32", [0.5, 1.5], 10, 4000.0, 7.0)
    assert (row["images_per_s"], row["update_ms"], row["tflops"], row["share"]) == (10.0, 1000.0, 2.0, "unknown")
    monkeypatch.setattr(gpu_fast, "peak", lambda device, precision: 8.0)
    assert gpu_fast.throughput(CPU, "tf32", [0.5, 1.5], 10, 4000.0, 7.0)["share"] == 0.25


def test_a_table_says_why_a_row_failed():
    table = markdown_rows({"a": {"x": 0.5, "ok": False}, "b": {"failed": "out | of memory"}}, {"x": "X", "ok": "within"})
    assert table.splitlines()[2:] == ["| a | 0.5 | NO |  |", "| b |  |  | out / of memory |"]


@pytest.mark.parametrize("tiny", [True, False])
def test_the_cut_suite_is_a_suite(tiny, tmp_path):
    values = yaml.safe_load(gpu_real.SUITE.read_text(encoding="utf-8"))
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(gpu_real.cut(values, dict.fromkeys(gpu_real.SHARES, 40), tiny)), encoding="utf-8")
    suite = read_suite(path)
    assert set(suite.students) == {"diff-instruct", "disback", "sfd-v"} and suite.teacher.steps == 40 and not suite.second_stage


def test_sizes_take_their_share_of_the_minutes():
    sizes = gpu_real.sizes_for(8.0, 10.0, 1.5)
    for name, share in gpu_real.SHARES.items():
        seconds = sizes[name] * gpu_real.FORWARDS[name] * 128 * 1.5e9 / 10e12
        assert seconds == pytest.approx(share * 480, rel=0.02)


@pytest.mark.slow
def test_the_rehearsal_is_killed_and_goes_on(tmp_path):
    """Both tables whole but for what goes through the compiler, nothing computed twice, at most eight files."""
    process = subprocess.Popen([*COMMAND, "--out", str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and not ((tmp_path / "right.json").exists() and len(rows_in(tmp_path, "right")) >= 3):
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = rows_in(tmp_path, "right")
    done = subprocess.run([*COMMAND, "--out", str(tmp_path), "--minutes", "3", "3", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1, 75), done.stderr
    right, fast = rows_in(tmp_path, "right"), rows_in(tmp_path, "fast")
    assert {key: right[key] for key in before} == before and f"right: {len(before)} rows are there" in done.stdout
    for groups, rows in ((gpu_right.groups(), right), (gpu_fast.groups(), fast)):
        wanted = {key for group in groups for key in group.keys if "compile" not in key and "CUDA graphs" not in key}
        assert wanted <= set(rows) and not [key for key in wanted if "failed" in rows[key] or not rows[key].get("within", True)]
    assert {f"{method}: against the CPU" for method in CASES} <= set(right)
    assert all(fast[f"{method}, float32"]["images_per_s"] > 0 for method in CASES)
    assert 0 < len(list(tmp_path.iterdir())) <= 8 and "Rehearsal" in (tmp_path / "fast.md").read_text(encoding="utf-8")


def rows_in(folder, part):
    return json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))["rows"]


def test_the_code_that_ran_is_named():
    about = gpu.facts("cpu", True)
    assert about["code"] == gpu.code_digest() and len(about["code"]) == 16 and about["driver"] == "none"
