"""What the benchmark counts is what an update ideally costs, and its tables hold what was measured; no speed passes or fails a test."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count as counted_from
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import bench  # noqa: E402
import original  # noqa: E402
import plain  # noqa: E402
from timing import REST, Clock, Time, counting, parts  # noqa: E402
from tricks import TRICKS, checkpoint  # noqa: E402
from updates import CASES, Case, Setup  # noqa: E402

IDEAL = {"teacher": 3, "recording": 4, "diff-instruct": 8, "disback": 8, "shared noise": 7, "trajectory": 7, "sfd": 18, "sfd, cached": 6}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> Setup:
    return bench.setup(ROOT / "params.yaml", "tiny", CPU)


@dataclass(frozen=True)
class Ticks(Clock):
    """A second passes from one reading to the next, and no other."""

    readings: Iterator[int] = field(default_factory=counted_from)

    def now(self) -> float:
        return float(next(self.readings))


def plain_loop(case: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[int], object], dict[str, torch.nn.Module]]:
    """A case's plain loop, and the nets that it trains, which are its own."""
    seen, adam = {}, plain.adam

    def noticed(net, p):
        seen[f"trained {len(seen)}"] = net
        return adam(net, p)

    with monkeypatch.context() as patched:
        patched.setattr(plain, "adam", noticed)
        return case.plain(), seen


@pytest.mark.parametrize("method", CASES)
def test_an_update_runs_the_nets_as_often_as_it_has_to(method: str, tiny: Setup) -> None:
    """Forwards + 2 x backwards are the ideal count, and no graph is built that nothing goes back through."""
    case = CASES[method](tiny)
    for step in range(4):
        with counting(case.nets) as count:
            case.update(step)
        assert count.cost == case.ideal(step)
        assert count.graphs == count.backwards
    assert case.ideal(0) == IDEAL.get(method, case.ideal(0))


@pytest.mark.slow
def test_sfd_v_is_worth_its_own_steps(tiny: Setup) -> None:
    """K = 4 teacher steps per student step, and 3 forwards for each step after the analytical one; all four lengths come up."""
    p = tiny.trajectory["sfd-v"]
    wanted = {4 * (n - 1) + 3 * (n - 2) for n in p.num_steps}
    assert {CASES["sfd-v"](tiny).ideal(step) for step in range(40)} == wanted
    assert {CASES["sfd-v, cached"](tiny).ideal(step) for step in range(40)} == {3 * (n - 2) for n in p.num_steps}


@pytest.mark.parametrize(("method", "order"), [("diff-instruct", ["fake score", "student"]), ("shared noise", ["student", "fake score"])])
def test_the_students_step_gives_no_gradient_to_teacher_or_fake_score(method: str, order: list[str], tiny: Setup) -> None:
    case = CASES[method](tiny)
    with counting(case.nets) as count:
        case.update(0)
    assert count.reached == order  # each net's weights get gradients once, from the loss that is its own
    assert count.backwards == {"teacher": 0, "student": 1, "fake score": 1}
    assert all(not weight.requires_grad and weight.grad is None for weight in case.nets["teacher"].parameters())


@pytest.mark.parametrize(("method", "cost"), [("teacher", 3), ("recording", 4), ("diff-instruct", 9), ("disback", 8), ("sfd, cached", 18)])
def test_the_plain_loops_do_the_work_that_they_say(method: str, cost: int, tiny: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[method](tiny)
    update, seen = plain_loop(case, monkeypatch)
    frozen = {name: net for name, net in case.nets.items() if not any(weight.requires_grad for weight in net.parameters())}
    before = {name: [weight.clone() for weight in net.parameters()] for name, net in seen.items()}
    with counting(frozen | seen) as count:
        update(0)
    assert count.cost == cost
    for name, net in seen.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[name], net.parameters(), strict=True)), name


def test_counting_sees_waste() -> None:
    """Two forwards with a graph of which one is thrown away, and a gradient that goes on through a net that it should not touch."""
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    with counting({"first": first, "second": second}) as count:
        first(torch.ones(1, 2))
        second(first(torch.ones(1, 2))).sum().backward()
    assert (count.forwards, count.graphs, count.backwards) == (
        {"first": 2, "second": 1},
        {"first": 2, "second": 1},
        {"first": 1, "second": 1},
    )
    assert count.cost == 3 + 2 * 2 and count.reached == ["second", "first"]


@pytest.mark.parametrize("method", ["teacher", "disback", "shared noise", "sfd"])
def test_the_parts_are_the_whole(method: str, tiny: Setup) -> None:
    """Each forward, backward and step of an optimiser is booked once, on its part, and none while another is: each takes one tick."""
    case, steps = CASES[method](tiny), []
    case.update(0)
    for optimiser in case.state.optimisers.values():
        optimiser.register_step_post_hook(lambda *_: steps.append(1))
    with counting(case.nets) as count, parts(Ticks(CPU), case.nets, case.state) as booked:
        case.update(1)
    wanted = dict.fromkeys(booked, 0) | {"optimiser": len(steps)}
    for name in case.nets:
        wanted[name.rstrip("0123456789 ")] += count.forwards[name] + count.backwards[name]
    assert booked == wanted | {REST: sum(wanted.values()) + 1}  # a tick before each and one after the last


def test_a_ratio_is_the_median_over_the_turns() -> None:
    spent = {"a": [4.0, 9.0, 60.0], "b": [2.0, 3.0, 10.0]}
    clock = Clock(CPU)
    times = {name: [Time(wall_s=0.0, cpu_s=s) for s in values] for name, values in spent.items()}
    assert clock.ratio(times, "a", "b") == 3.0


def test_turns_begin_with_another_call_each_time() -> None:
    called: list[str] = []
    spent = Clock(CPU).interleaved({name: lambda turn, name=name: called.append(f"{name}{turn}") for name in "abc"}, 0.0)
    assert called == ["a0", "b0", "c0", "b1", "c1", "a1", "c2", "a2", "b2"] and {len(times) for times in spent.values()} == {3}


@pytest.mark.parametrize(("last_s", "gain"), [(66.0, 21.0), (54.0, 19.0)])
def test_a_save_is_compared_with_one_that_is_waited_for(last_s: float, gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall is that of the save and that of the wait for its copy; the first turn is left out."""
    seconds = iter([9.0, 9.0, 9.0, 1.0, 2.0, 60.0, 1.0, 2.0, last_s])
    monkeypatch.setattr("tricks.took", lambda call: (call(), next(seconds))[1])
    row = checkpoint(0.3, 2, Clock(CPU))
    assert (row["with_ms"], row["without_ms"]) == (3e3, 1e3 * (60 + last_s) / 2)
    assert row["gain"] == pytest.approx(gain) and row["verdict"] == (gain > 20) and "stalls 18000 ms" in row["note"]


def test_bfloat16_is_left_out_where_the_processor_has_none(tiny: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("flags : avx2 fma\n", encoding="utf-8")
    monkeypatch.setattr("tricks.CPUINFO", tmp_path / "cpuinfo")
    for trick in ("bfloat16", "bfloat16 and channels_last"):
        row = TRICKS[trick](tiny, 0.0, Clock(CPU))
        assert row["note"] == "not measured: this processor has neither AVX512-BF16 nor AMX" and "gain" not in row


@pytest.mark.slow
def test_extractors_are_measured_on_the_same_features(tmp_path: Path) -> None:
    """Each package in its own process; clean-fid's features are ours, so that its images per second are of the same work."""
    command = [sys.executable, "benchmarks/features.py", "--images", "1", "--turns", "1", "--threads", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "features.csv", encoding="utf-8") as file:
        rows = {row["package"]: row for row in csv.DictReader(file)}
    assert {"backtrail, inception", "backtrail, inception-clean", "clean-fid"} <= set(rows)
    others = {name: row for name, row in rows.items() if row["gain"]}
    assert all(float(row["difference"]) < 1e-5 and float(row["gain"]) > 0 for row in others.values()), others
    assert "| clean-fid | " in done.stdout


@pytest.mark.slow
def test_the_command_writes_its_tables(tmp_path: Path) -> None:
    words = ["--params", "params.yaml", "--device", "cpu", "--nets", "tiny", "--methods", "sfd", "sfd, cached", "teacher"]
    words += ["--seconds", "0", "--checkpoint-millions", "0.3", "--out", str(tmp_path)]
    command = [sys.executable, "benchmarks/bench.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))
    assert (found["device"], found["threads"], found["torch"], found["params"]["suite"]) == ("cpu", 1, torch.__version__, "fashion-mnist")
    rows = {row["method"]: row for row in found["methods"]}
    assert {name: (row["counted"], row["ideal"]) for name, row in rows.items()} == {
        "teacher": (3, 3),
        "sfd": (18, 18),
        "sfd, cached": (6, 6),
    }
    for row in rows.values():
        assert row["in_forwards"] == pytest.approx(row["ratio"] * row["ideal"]) and row["within"] == (row["ratio"] <= 1.15)
        assert row["images_per_s"] == pytest.approx(2e3 / row["update_ms"]) and row["peak_mb"] >= row["start_mb"] > 50
        assert sum(row["shares"].values()) == pytest.approx(1.0)
    with open(tmp_path / "methods.csv", encoding="utf-8") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["sfd", "sfd, cached", "teacher"]
    with open(tmp_path / "tricks.csv", encoding="utf-8") as file:
        tricks = {row["trick"]: row for row in csv.DictReader(file)}
    assert set(tricks) == {"cached trajectories", "asynchronous save", "freed memory kept", *TRICKS} - {"torch.compile"}
    gain = rows["sfd"]["in_forwards"] / rows["sfd, cached"]["in_forwards"]
    assert float(tricks["cached trajectories"]["gain"]) == pytest.approx(gain)
    assert float(tricks["freed memory kept"]["with_ms"]) > 0 and float(tricks["freed memory kept"]["gain"]) > 0
    assert "| tiny | sfd | " in done.stdout and "| asynchronous save | " in done.stdout


def test_the_originals_block_computes_what_ours_does() -> None:
    """Else their speeds would be of different work; with dropout off, because the two draw different masks."""
    case = original.cases(ROOT / "params.yaml", 64, 16, 1, ("recording",))["recording"]
    net, x = case.nets["student"].net, torch.randn(1, 3, 16, 16)
    ours = net(x, torch.zeros(1))
    with original.as_released(), mock.patch("backtrail.nets.convolution.Winograd.apply") as winograd:
        torch.testing.assert_close(net(x, torch.zeros(1)), ours, rtol=1e-4, atol=1e-5)
    assert not winograd.called


@pytest.mark.parametrize(("method", "ours", "theirs"), [("recording", 4, 4), ("diff-instruct", 8, 9), ("sfd, cached", 6, 18)])
def test_the_originals_loop_runs_beside_ours(method: str, ours: int, theirs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that nothing but the counted work moves on, their ratio is that of their work."""
    case = original.cases(ROOT / "params.yaml", 8, 8, 1, (method,))[method]
    loop, trained = plain_loop(case, monkeypatch)
    with counting(case.nets | trained) as count:
        clocks = SimpleNamespace(perf_counter=lambda: float(count.cost), process_time=lambda: float(count.cost))
        monkeypatch.setattr("timing.time", clocks)
        assert original.compare(replace(case, plain=lambda: loop), 2) == (theirs / ours,) * 3
