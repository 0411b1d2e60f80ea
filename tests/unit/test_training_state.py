"""A killed run ends as one that was never killed; torn states are passed over; the average follows its formula."""

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backtrail.data.dataset import Labelled
from backtrail.errors import Interrupted, UserError
from backtrail.methods.disback import distillation as score_distillation
from backtrail.methods.disback import recording as degradation
from backtrail.methods.disback.path import Origin
from backtrail.methods.sfd import distillation as trajectory_distillation
from backtrail.methods.sfd.trajectories import Pool
from backtrail.parameters.base import validate
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.training import Adam, Average
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.running.stage import SCRATCH, drop_committed
from backtrail.tensors import tensors_digest
from backtrail.training.loop import Diverged, Execution, run
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState, adam, optimiser_step, update_average, weights
from sampled import slow_after
from unit.oracles import tiny_denoiser
from unit.test_score_distillation import ADAM, RECORDING, SHAPE, tiny_path
from unit.test_trajectory_distillation import DATA

N = 12


class Killed(Exception):
    """Stands for SIGKILL: nothing gets to run after it."""


def score(scratch, evaluate, **changes):
    base = {"updates": N, "batch": 4, "student": {**ADAM, "warmup": 5}, "fake": ADAM, "evaluate_every": 1, "snapshots": [0, 4, 8]}
    p = validate(ScoreDistillation, base | {"average": {"half_life": 30.0}} | changes, "method")
    return score_distillation.distil(tiny_path(3, dropout=0.2, n_classes=2), p, 0, evaluate, Execution(scratch))


def trajectory(scratch, evaluate, **changes):
    base = {"rounds": N, "batch": 4, "pool": 5, "optimiser": {"lr": 1e-3}, "evaluate_every": 1, "dropout": True}
    p = validate(TrajectoryDistillation, base | changes, "method")
    teacher = tiny_denoiser(dropout=0.2)
    return trajectory_distillation.distil(Pool(teacher, p, DATA), 0, evaluate, Execution(scratch))


METHODS = {
    "diff-instruct": (score, {}),
    "disback": (score, {"recording": RECORDING, "node_updates": 3, "fake_per_student": 2, "dropout": True}),
    "adaptive": (score, {"recording": RECORDING, "node_updates": 2, "node_budget": "adaptive", "shared_noise": True}),
    "trajectory": (trajectory, {"inputs": "data"}),
    "sfd": (trajectory, {}),
    "sfd-v": (trajectory, {"num_steps": [4, 5], "step_condition": "zero"}),
}


def content(state: TrainingState):
    """Everything that a stage writes: tensors by digest, the log and the notes, as text since a table's columns have an order."""
    return tensors_digest(state.tensors()), json.dumps(state.facts())


def saving_after_every_step(monkeypatch):
    for module in (score_distillation, trajectory_distillation, degradation):
        monkeypatch.setattr(module, "run", partial(run, save_every_s=0.0))


@pytest.mark.parametrize("name", slow_after(2, sorted(METHODS, key=lambda name: name not in ("disback", "sfd-v"))))
def test_a_killed_run_ends_with_the_same_bytes(name, tmp_path, monkeypatch):
    method, changes = METHODS[name]
    whole = content(method(None, lambda student: next(student.parameters()).sum().item(), **changes))
    saving_after_every_step(monkeypatch)
    for step in (1, 5, N - 1):  # killed while the row of this step is written, again and again from the same folder
        calls = []

        def evaluate(student, step=step, calls=calls):
            calls.append(1)
            if len(calls) == step:
                raise Killed
            return next(student.parameters()).sum().item()

        killed = Scratch(tmp_path / name / str(step))
        with pytest.raises(Killed):
            method(killed, evaluate, **changes)
        killed.finish()  # the thread that writes lives on here, as it would not in a killed process
        scratch = Scratch(tmp_path / name / str(step))
        resumed = method(scratch, lambda student: next(student.parameters()).sum().item(), **changes)
        assert content(resumed) == whole
        # Step s is saved after its row: the kill in row s leaves step s - 2 as the newest (rows count from 0).
        assert scratch.resumed_from == (step - 2 if step > 2 else None)


@pytest.fixture
def heeding_sighup() -> Iterator[None]:
    """A run that was started to ignore SIGHUP (`nohup`) goes on ignoring it; these tests may have been."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("number", slow_after(1, [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]))
def test_a_stopped_run_saves_says_so_and_ends_with_the_same_bytes(name, number, tmp_path, heeding_sighup):
    method, changes = METHODS[name]
    whole = content(method(None, lambda student: 0.0, **changes))
    calls = []

    def evaluate(student):
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), number)
        return 0.0

    with pytest.raises(Interrupted, match=rf"stopped by {number.name} after step 6") as stop:
        method(Scratch(tmp_path), evaluate, **changes)
    assert stop.value.exit_code == 75
    scratch = Scratch(tmp_path)
    assert content(method(scratch, lambda student: 0.0, **changes)) == whole and scratch.resumed_from == 6


@pytest.mark.parametrize("tolerance", [None, 0.9])
def test_a_killed_recording_ends_with_the_same_path(tolerance, tmp_path, monkeypatch):
    recording = {"steps": 20, "nodes": 3, "optimiser": ADAM, "evaluation_batch": 8, "tolerance": tolerance}
    base = {"updates": 50, "batch": 4, "student": ADAM, "fake": ADAM, "recording": recording}
    p, data = validate(ScoreDistillation, base, "method"), Labelled(torch.zeros(8, *SHAPE))
    path, how = degradation.record(Origin(tiny_denoiser()), p, data, 0)
    saving_after_every_step(monkeypatch)
    measured = []
    measure = degradation.PathLoss.__call__

    def killed(self, denoiser):
        measured.append(1)
        if len(measured) == 4:
            raise Killed
        return measure(self, denoiser)

    with monkeypatch.context() as patch:
        patch.setattr(degradation.PathLoss, "__call__", killed)
        first = Scratch(tmp_path)
        with pytest.raises(Killed):
            degradation.record(Origin(tiny_denoiser()), p, data, 0, Execution(first))
        first.finish()
    scratch = Scratch(tmp_path)
    again, how_again = degradation.record(Origin(tiny_denoiser()), p, data, 0, Execution(scratch))
    assert scratch.resumed_from == 2 and again.table.equals(path.table) and how_again == how
    assert [tensors_digest(n.state_dict()) for n in again.nodes] == [tensors_digest(n.state_dict()) for n in path.nodes]


@dataclass
class Counting(TrainingState):
    """A run that counts its updates by itself."""

    count: int = 0


def small_state() -> Counting:
    module = torch.nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.fill_(0.5)
        module.bias.fill_(0.1)
    return Counting({"net": module}, {"net": adam(module, Adam(lr=0.01))}, {"net": weights(module)})


def small_update(state: Counting, step: int):
    loss = (state.modules["net"](torch.full((1, 3), float(step))) ** 2).sum()
    loss.backward()
    optimiser_step(state.optimisers["net"], Adam(lr=0.01, clip=1.0), step)
    state.count += 1
    return {"loss": loss.item()}


def train(state, scratch, n, **options):
    for step, losses in run(state, lambda step: small_update(state, step), n, scratch, **options):
        state.rows.append({"step": step, **losses})
    return state


@pytest.mark.parametrize("damage", ["cut", "flipped", "another fact", "empty", "another module"])
def test_a_torn_state_is_passed_over_for_the_one_before(damage, tmp_path, caplog):
    whole = content(train(small_state(), None, 9))
    scratch = Scratch(tmp_path)
    train(small_state(), scratch, 6, save_every_s=0.0)
    newest, before = sorted(tmp_path.glob("step-*"), reverse=True)
    assert (newest.name, before.name) == ("step-000000006.safetensors", "step-000000005.safetensors")
    data = bytearray(newest.read_bytes())
    if damage == "cut":
        newest.write_bytes(data[:-7])
    elif damage == "flipped":
        data[-3] ^= 1
        newest.write_bytes(data)
    elif damage == "another fact":
        place = next(i for i in range(data.index(b"count"), len(data)) if chr(data[i]).isdigit())
        data[place] ^= 1
        newest.write_bytes(data)
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        other = TrainingState({"net": torch.nn.Linear(4, 2)}, {}, step=6)
        Scratch(tmp_path).save(other, wait=True)
    scratch = Scratch(tmp_path)
    assert content(train(small_state(), scratch, 9)) == whole
    assert scratch.resumed_from == 5 and "resume state passed over" in caplog.text


def test_a_flip_in_any_byte_of_a_state_is_noticed(tmp_path):
    for step in (5, 6):
        Scratch(tmp_path).save(TrainingState({"net": torch.nn.Linear(2, 1)}, {}, step=step), wait=True)
    newest = tmp_path / "step-000000006.safetensors"
    whole = newest.read_bytes()
    for place, bit in itertools.product(range(len(whole)), (1, 128)):
        newest.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        state = TrainingState({"net": torch.nn.Linear(2, 1)}, {})
        assert Scratch(tmp_path).restore(state) and state.step == 5, f"byte {place}, bit {bit}"


def test_two_states_are_kept_and_leftovers_of_a_kill_are_swept(tmp_path):
    (tmp_path / ".step-000000001.safetensors.999.tmp").write_bytes(b"half")
    scratch = Scratch(tmp_path)
    train(small_state(), scratch, 8, save_every_s=0.0)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step-000000007.safetensors", "step-000000008.safetensors"]
    scratch.clear()
    assert not tmp_path.exists()


@pytest.mark.parametrize("slow", ["_copy", "_write"])
def test_a_save_holds_the_state_of_its_moment(slow, tmp_path, monkeypatch):
    """What happens to the weights after `save` is not in the file: an update waits for the copy, and not for the writing."""
    taken, done = getattr(Scratch, slow), []

    def late(self, *arguments):
        time.sleep(0.3)
        taken(self, *arguments)
        done.append(slow)

    monkeypatch.setattr(Scratch, slow, late)
    state, scratch = small_state(), Scratch(tmp_path)
    small_update(state, 0)
    before = content(state)
    scratch.save(state)
    assert not done
    small_update(state, 1)
    assert done == (["_copy"] if slow == "_copy" else [])
    scratch.finish()
    restored = small_state()
    assert Scratch(tmp_path).restore(restored) and content(restored) == before != content(state)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    state, scratch = small_state(), Scratch(tmp_path)
    steps = run(state, lambda step: {"loss": float("nan") if step == 3 else 0.0}, 9, scratch, save_every_s=0.0)
    with pytest.raises(Diverged, match="loss is nan at step 3: try a smaller learning rate"):
        list(steps)
    assert state.step == 3 and issubclass(Diverged, UserError)


def test_warm_up_and_clipping():
    state = small_state()
    rates, norms = [], []
    for step in range(6):
        parameter = state.modules["net"].weight
        parameter.grad = torch.full_like(parameter, 10.0)
        state.modules["net"].bias.grad = torch.zeros(2)
        state.optimisers["net"].register_step_post_hook(lambda o, *_: norms.append(state.modules["net"].weight.grad.norm().item()))
        optimiser_step(state.optimisers["net"], Adam(lr=0.4, warmup=4, clip=2.0), step, factor=0.5)
        rates.append(state.optimisers["net"].param_groups[0]["lr"])
        assert parameter.grad is None
    assert rates == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2, 0.2])
    assert norms == pytest.approx([2.0] * len(norms), rel=1e-5)


def test_a_summed_loss_is_descended_as_its_mean_is_with_clip_and_eps_times_the_numbers_in_it():
    """Losses are summed over an image here and averaged in the code of others, whose settings `suites/sdxl` takes over."""
    d = 4 * 128 * 128
    ends = []
    for scale in (1.0, float(d)):
        net = torch.nn.Linear(3, 2).double()
        net.load_state_dict({name: torch.arange(of.numel()).view_as(of).double() for name, of in net.state_dict().items()})
        p = Adam(lr=0.1, betas=(0.9, 0.999), clip=10.0 * scale, eps=1e-8 * scale)
        optimiser = torch.optim.Adam(net.parameters(), lr=p.lr, betas=p.betas, eps=p.eps)
        for step in range(3):
            (scale * 1e-8 * net(torch.full((1, 3), 1.0 + step, dtype=torch.double)).square().sum()).backward()
            optimiser_step(optimiser, p, step)
        ends.append(torch.cat([of.flatten() for of in net.state_dict().values()]))
    assert torch.allclose(*ends, rtol=1e-12, atol=0)


@given(half_life=st.floats(10.0, 5000.0), batch=st.integers(1, 512), ramp=st.sampled_from([None, 0.05, 0.5]), step=st.integers(1, 400))
def test_the_average_moves_by_its_half_life(half_life, batch, ramp, step):
    module = torch.nn.Linear(1, 1).double()
    average = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    update_average(average, module, Average(half_life=half_life, ramp=ramp), step, batch)
    effective = half_life if ramp is None else min(half_life, ramp * step * batch)
    decay = 0.5 ** (batch / effective)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(average[name], (1 - decay) * value, rtol=1e-9, atol=1e-12)


def test_after_a_half_life_of_images_half_of_the_old_weights_is_left():
    module = torch.nn.Linear(1, 1, bias=False).double()
    average = {"weight": torch.ones(1, 1, dtype=torch.float64)}
    with torch.no_grad():
        module.weight.zero_()
    for step in range(1, 51):
        update_average(average, module, Average(half_life=50 * 64.0, ramp=None), step, 64)
    assert average["weight"].item() == pytest.approx(0.5, rel=1e-12)


def test_a_run_that_was_told_to_outlive_its_terminal_does():
    """`nohup`, or a shell that ignores SIGHUP for what it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        state = small_state()
        for _ in run(state, lambda step: os.kill(os.getpid(), signal.SIGHUP) or small_update(state, step), 3):
            pass
        assert state.step == 3 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_newest_state_stays_until_the_engine_has_the_result(tmp_path, monkeypatch):
    """A kill between a stage's end and DVC's commit costs the steps since the last save, and not the training."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.lock").write_text("md5: feedbeef\n", encoding="utf-8")
    for name, result in (("by-hand", ""), ("committed", "feedbeef"), ("killed", "deadbeef")):
        state = small_state()
        for _ in run(state, lambda step, state=state: small_update(state, step), 4, scratch := Scratch(SCRATCH / name), 0):
            pass
        scratch.clear(result)
    Scratch(SCRATCH / "too short to have saved").clear("deadbeef")
    assert sorted(path.name for path in SCRATCH.glob("*/*")) == [
        "finished",
        "finished",
        "step-000000004.safetensors",
        "step-000000004.safetensors",
    ]
    drop_committed()
    assert [path.name for path in SCRATCH.iterdir()] == ["killed"]
    assert Scratch(SCRATCH / "killed").restore(restored := small_state()) and restored.step == 4
