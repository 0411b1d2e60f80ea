"""`backtrail curves`: training curves for TensorBoard, of what has been trained and of what is training now.

They are read from what stages leave anyway, curves of finished stages and resume states of running ones, so no stage knows of it and no
result depends on it.
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import safetensors

from backtrail.errors import UserError
from backtrail.laid_down import declared_stages
from backtrail.layout import AUTOENCODER_LOG, CURVES, TEACHER_LOG
from backtrail.parameters.suite import read_suite
from backtrail.pipeline import Declared
from backtrail.running.stage import SCRATCH
from backtrail.tables import load_csv

STEPS = ("total_updates", "update", "step")  # what a curve may count; the first that it has is its x axis
SUFFIX = ".backtrail"  # of the event files that this command writes, and replaces
Row = dict[str, Any]


@click.command(epilog="To look at them: tensorboard --logdir FOLDER")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--every", type=click.FloatRange(min=1), metavar="SECONDS", help="Go on, and look for new points so often, until Ctrl-C.")
def command(folder: Path, every: float | None) -> None:
    """Write the training curves of this suite to FOLDER as TensorBoard reads them: a run for each teacher and for each student and seed.

    A stage that is training shows what it last saved (once a minute, or every BACKTRAIL_SAVE_EVERY_S seconds).
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard is not installed here: `pip install tensorboard`") from None
    read_suite()  # said in its own words if it is none
    stages = [(stage, file) for stage in declared_stages() for file in stage.outs if is_curve(file)]
    shown: dict[str, list[Row]] = {}
    writers: dict[str, Any] = {}
    while True:
        for stage, file in stages:
            run, rows = name_of(file), curve(stage, Path(file))
            old = shown.get(run, [])
            if run not in writers or list(points(rows[: len(old)])) != list(points(old)):  # new here, or trained anew; NaN equals nothing
                if not rows:
                    continue
                if run in writers:
                    writers[run].close()
                for events in (folder / run).glob(f"events.out.tfevents.*{SUFFIX}"):
                    events.unlink()
                writers[run], old = SummaryWriter(str(folder / run), filename_suffix=SUFFIX), []
            for step, name, value in points(rows[len(old) :]):
                writers[run].add_scalar(name, value, step)
            writers[run].flush()
            shown[run] = rows
        click.echo(f"{sum(map(len, shown.values()))} rows of {len(shown)} curves in {folder}")
        if every is None:
            break
        time.sleep(every)


def is_curve(file: str) -> bool:
    return file.startswith(f"{CURVES}/") or file in (TEACHER_LOG, AUTOENCODER_LOG)


def name_of(file: str) -> str:
    """`disback/seed0`, `teacher`: what a run is called."""
    return file.removeprefix(f"{CURVES}/").removeprefix("results/").removesuffix(".csv").removesuffix("/log")


def curve(stage: Declared, file: Path) -> list[Row]:
    """The rows that a stage has logged: from its newest resume state if it is training, else from the curve that it has written."""
    written = file.stat().st_mtime if file.is_file() else 0.0
    mine = [folder for folder in SCRATCH.glob("*/") if folder.name.rpartition("-")[0] == stage.name]  # others' names may begin with it
    states = [path for folder in mine for path in folder.glob("step-*.safetensors")]
    for moment, path in sorted(((modified(path), path) for path in states), reverse=True):
        if moment > written and (rows := rows_in(path)):
            return rows
    return load_csv(file).to_dict("records") if written else []


def modified(path: Path) -> float:
    """When a file was written; 0 of one that has gone meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def rows_in(state: Path) -> list[Row]:
    """The log in a resume state, of which the header alone is read; nothing of one that is torn or has gone."""
    try:
        with safetensors.safe_open(state, framework="np") as file:
            return json.loads(json.loads(file.metadata()["backtrail"])["metadata"]["facts"])["rows"]
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError):
        return []


def points(rows: list[Row]) -> Iterator[tuple[int, str, float]]:
    """(step, name, value) of every finite number in the rows but the steps themselves."""
    for row in rows:
        count = next((key for key in STEPS if key in row), None)
        for name, value in row.items():
            if count and name not in STEPS and isinstance(value, int | float) and math.isfinite(value):
                yield int(row[count]), name, float(value)
