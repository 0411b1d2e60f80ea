"""A run that is killed, stopped, cut into slices or given a torn state ends as one that nothing touched (`benchmarks/kills.py`)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backtrail.errors import Interrupted, UserError
from backtrail.ledger.record import recipe_key
from backtrail.parameters.runtime import Runtime
from backtrail.training.loop import run
from backtrail.training.scratch import Scratch
from unit.test_training_state import content, small_state, small_update, train

ROOT = Path(__file__).parents[2]


def kill(stages: list[str], kills: int, out: Path) -> dict[str, dict]:
    """The script's tallies by stage; it has a process of its own, since it forks."""
    command = [sys.executable, "benchmarks/kills.py", "--kills", str(kills), "--stages", *stages, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {tally["stage"]: tally for tally in json.loads(out.read_text(encoding="utf-8"))}


def check(tally: dict, kills: int) -> None:
    assert tally["kills"] == kills and tally["equal"] == tally["runs"] >= 2
    assert tally["signals"] == 3 and tally["slices"] > 1 and tally["torn_reported"] == tally["torn"] >= kills // 10
    assert len(set(tally["resumed_from"])) >= 4  # three signals and a slice at the least


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["teacher", "recording", "score distillation", "Algorithm 1", "SFD-v"])
def test_a_stage_killed_at_random_moments_ends_with_the_same_bytes(stage: str, tmp_path: Path) -> None:
    check(kill([stage], 10, tmp_path / "tallies.json")[stage], 10)


@pytest.mark.slow
def test_the_teacher_killed_a_few_times_ends_with_the_same_bytes(tmp_path: Path) -> None:
    check(kill(["teacher"], 3, tmp_path / "tallies.json")["teacher"], 3)


def test_a_run_in_slices_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of no time makes one step; the last step is no reason to stop."""
    whole = content(train(small_state(), None, 5))
    monkeypatch.setenv("BACKTRAIL_SLICE_S", "0")
    for step in range(1, 5):
        with pytest.raises(Interrupted, match=rf"stopped by the end of its slice of 0 s after step {step}; the next run continues") as stop:
            train(small_state(), Scratch(tmp_path), 5)
        assert stop.value.exit_code == 75
    assert content(train(small_state(), Scratch(tmp_path), 5)) == whole


def test_saves_are_as_frequent_as_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(small_state(), Scratch(tmp_path / "seldom"), 4)
    assert not list(tmp_path.glob("seldom/*"))
    monkeypatch.setenv("BACKTRAIL_SAVE_EVERY_S", "0")
    train(small_state(), Scratch(tmp_path / "often"), 4)
    assert [path.stem for path in sorted(tmp_path.glob("often/*"))] == ["step-000000003", "step-000000004"]


@pytest.mark.parametrize("value", ["soon", "-1", "nan"])
@pytest.mark.parametrize("name", ["BACKTRAIL_SAVE_EVERY_S", "BACKTRAIL_SLICE_S"])
def test_a_time_that_is_none_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    state = small_state()
    with pytest.raises(UserError, match=rf"{name} = '{value}' should be a number of seconds, 0 or more"):
        next(run(state, lambda step: small_update(state, step), 3))


def test_threads_are_part_of_the_recipe_and_nothing_else_reads_beside_the_training() -> None:
    """There are no data workers: each batch is drawn in the process that trains. What changes rounding is the number of torch's threads."""
    keys = {recipe_key("teacher", {"runtime": Runtime(threads=n).model_dump(mode="json")}, {}, {}) for n in (1, 2)}
    assert len(keys) == 2
    users = [
        f
        for f in (ROOT / "src/backtrail").rglob("*.py")
        if "DataLoader" in f.read_text(encoding="utf-8") or "num_workers" in f.read_text(encoding="utf-8")
    ]
    assert users == []


def test_a_save_into_the_memory_of_the_one_before_holds_its_own_moment(tmp_path: Path) -> None:
    """Also where a tensor has come, changed its shape, or gone."""
    scratch = Scratch(tmp_path)
    for step, rows in enumerate((0, 1, 2, 0), start=1):
        state = small_state()
        small_update(state, step)
        state.step, state.snapshots = step, {"kept": {"weight": torch.full((rows, 3), float(step))}} if rows else {}
        scratch.save(state, wait=True)
        restored = small_state()
        assert Scratch(tmp_path).restore(restored) and content(restored) == content(state)
