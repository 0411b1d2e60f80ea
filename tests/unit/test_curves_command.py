"""`backtrail curves` against what TensorBoard itself reads."""

import os
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backtrail.cli import curves
from backtrail.errors import UserError
from backtrail.laid_down import declared_stages
from backtrail.layout import TEACHER_LOG
from backtrail.ledger.fingerprints import closure_files
from backtrail.tables import load_csv, save_csv
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState

ROOT = Path(__file__).parents[2]
CURVE = "results/curves/disback/seed0.csv"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The built-in suite with one finished curve, and a state of a stage that is training."""
    for name in ("params.yaml", "dvc.yaml", CURVE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def training(stage: str, rows: list[dict[str, object]]) -> None:
    """A resume state as the loop leaves it."""
    scratch = Scratch(f".scratch/{stage}-0123456789abcdef")
    net = torch.nn.Linear(1, 1)
    scratch.save(TrainingState({"student": net}, {}, rows=rows, step=len(rows)), wait=True)


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of a run by TensorBoard's own reader."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def write(folder: Path) -> str:
    return CliRunner().invoke(curves.command, [str(folder)], catch_exceptions=False).output


def test_a_finished_curve_has_all_its_numbers(suite: Path) -> None:
    assert "of 1 curves" in write(suite / "board") and "of 1 curves" in write(suite / "board")  # a second call doubles nothing
    table, found = load_csv(suite / CURVE), read(suite / "board/disback/seed0")
    assert set(found) == set(table.columns) - set(curves.STEPS)
    for name, points in found.items():
        told = table[["total_updates", name]].dropna()
        assert [step for step, _ in points] == told["total_updates"].tolist()
        assert [value for _, value in points] == pytest.approx(told[name].tolist(), rel=1e-6)


def test_a_stage_that_trains_shows_what_it_last_saved(suite: Path) -> None:
    training("trajectory-distillation@sfd-1", [{"total_updates": 10 * n, "fd_classifier": 9.0 - n, "loss_fake": None} for n in range(3)])
    training("teacher", [{"step": 50, "images": 6400, "loss": 0.5}, {"step": 100, "images": 12800, "loss": float("nan")}])
    write(suite / "board")
    assert read(suite / "board/sfd/seed1") == {"fd_classifier": [(0, 9.0), (10, 8.0), (20, 7.0)]}
    assert read(suite / "board/teacher") == {"images": [(50, 6400.0), (100, 12800.0)], "loss": [(50, 0.5)]}


def test_a_stage_whose_name_begins_with_another_s_is_not_that_other(suite: Path) -> None:
    training("teacher", [{"step": 50, "loss": 0.5}])
    os.utime(next(Path(".scratch/teacher-0123456789abcdef").glob("step-*")), (1, 1))  # the oldest, and the only one that is its own
    training("teacher-samples", [{"step": 1, "loss": 7.0}])
    (stage,) = [stage for stage in declared_stages() if stage.name == "teacher"]
    assert curves.curve(stage, Path(TEACHER_LOG)) == [{"step": 50, "loss": 0.5}]


def test_what_is_trained_anew_takes_the_place_of_the_old_curve_until_it_is_done(suite: Path) -> None:
    os.utime(CURVE, (1, 1))
    training("score-distillation@disback-0", [{"total_updates": 7, "fd_classifier": 3.0}])
    write(suite / "board")
    assert read(suite / "board/disback/seed0") == {"fd_classifier": [(7, 3.0)]}
    save_csv(CURVE, pd.DataFrame([{"total_updates": 8, "fd_classifier": 2.0}]))
    (torn,) = Path(".scratch").glob("*/step-*.safetensors")
    torn.write_bytes(torn.read_bytes()[:40])  # newer, and no whole file
    write(suite / "board")
    assert read(suite / "board/disback/seed0") == {"fd_classifier": [(8, 2.0)]}


def test_no_stage_knows_of_it() -> None:
    for stage in ("teacher", "score-distillation", "trajectory-distillation"):
        assert not [path for path in closure_files(stage) if "curves" in path.name or "tensorboard" in path.name]


def test_without_tensorboard_it_says_what_to_install(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        CliRunner().invoke(curves.command, ["board"], catch_exceptions=False)
