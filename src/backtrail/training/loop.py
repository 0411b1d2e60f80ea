"""The loop of every stage with an optimiser: a generator that yields after each step, so that logging and evaluation stay outside."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from backtrail.errors import Interrupted, UserError
from backtrail.training.data_parallel import ALONE, Group
from backtrail.training.progress import progress
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState

Losses = dict[str, float]
SAVE_EVERY_S = 60.0


@dataclass(frozen=True)
class Execution:
    """How a run is executed, on which no result depends: where it keeps its resume state, and the processes that share its batches."""

    scratch: Scratch | None = None
    group: Group = ALONE


HERE = Execution()


class Diverged(UserError):
    """A loss is not a finite number; the last good state is kept in scratch."""

    exit_code = 3


def run(
    state: TrainingState,
    update: Callable[[int], Losses],
    n_steps: int,
    scratch: Scratch | None = None,
    save_every_s: float | None = None,
) -> Iterator[tuple[int, Losses]]:
    """Call `update(step)` for step = state.step ... n_steps - 1 and yield (steps made, its losses) after each.

    A run that starts anew yields (0, {}) before the first update, so that the initial state is logged by the same code as the others.

    What the caller does between two yields (log rows, evaluations, snapshots) is part of the state that the next save writes, so a resumed
    run neither repeats nor loses it. `update` must not leave the state half changed when it raises.

    BACKTRAIL_SAVE_EVERY_S (seconds between two saves where `save_every_s` is None; 60) and BACKTRAIL_SLICE_S (seconds after which the run
    stops as after a signal; never) come from the environment: no result depends on them.

    Raises Diverged if a loss is not finite, and Interrupted after a stopping signal or the slice's end, with the state saved. Those are
    SIGTERM, SIGINT, SIGUSR1 and SIGHUP (a terminal that was closed), unless the process was started to take no notice of it (nohup).
    """
    save_every_s = _seconds("BACKTRAIL_SAVE_EVERY_S", SAVE_EVERY_S) if save_every_s is None else save_every_s
    slice_s = _seconds("BACKTRAIL_SLICE_S", math.inf)
    if scratch is not None:
        scratch.restore(state)
    began = saved = time.monotonic()
    with _stop_signals() as stop, progress(n_steps, state.step) as tick:
        if state.step == 0:
            yield 0, {}
        while state.step < n_steps:
            losses = update(state.step)
            if bad := [name for name, value in losses.items() if not math.isfinite(value)]:
                raise Diverged(f"{bad[0]} is {losses[bad[0]]} at step {state.step}: try a smaller learning rate or gradient clipping")
            state.step += 1
            tick(state.step)
            yield state.step, losses
            sliced = time.monotonic() - began >= slice_s and state.step < n_steps
            if state.group.total(float(bool(stop) or sliced), state.device):  # one process is told, all stop after the same step
                by = signal.Signals(stop[0]).name if stop else f"the end of its slice of {slice_s:g} s" if sliced else "another process"
                if scratch is None:
                    raise Interrupted(f"stopped by {by} after step {state.step}; there is no scratch folder to save to")
                scratch.save(state, wait=True)
                raise Interrupted(f"stopped by {by} after step {state.step}; the next run continues from there")
            if scratch is not None and time.monotonic() - saved >= save_every_s:
                scratch.save(state)
                saved = time.monotonic()
    if scratch is not None:
        scratch.finish()


def _seconds(name: str, default: float) -> float:
    """A time out of the environment. Raises UserError if it is no number of seconds."""
    text = os.environ.get(name, "")
    try:
        seconds = float(text or default)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(f"{name} = {text!r} should be a number of seconds, 0 or more")
    return seconds


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that holds the signal once one of the stopping signals has come; the handlers before are put back at the end."""
    received: list[int] = []
    heeded = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heeded.append(signal.SIGHUP)
    try:
        before = {s: signal.signal(s, lambda number, frame: received.append(number)) for s in heeded}
    except ValueError:  # not in the main thread: whoever started the thread decides about signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
