"""A batch divided among processes and passes: the same run beyond float error, with dropout on, for every method."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing

from backtrail.data.dataset import Dataset, Labelled
from backtrail.errors import UserError
from backtrail.methods.disback import distillation as score_distillation
from backtrail.methods.disback import recording as degradation
from backtrail.methods.disback.path import Origin
from backtrail.methods.sfd import distillation as trajectory_distillation
from backtrail.methods.sfd.trajectories import Pool
from backtrail.nets.blocks import checkpoint_blocks
from backtrail.parameters.base import validate
from backtrail.parameters.net import UNetParameters
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.teacher import Teacher
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.randomness import Masks, dropout, dropout_masks
from backtrail.teachers.train import teacher_state, teacher_update
from backtrail.training.data_parallel import ALONE, Group
from backtrail.training.loop import Execution
from backtrail.training.state import weights
from unit.oracles import tiny_denoiser
from unit.test_score_distillation import path_of

STEPS, BATCH = 8, 8
# Adam divides a gradient by its own size: where the true gradient is zero (a bias before a normalisation) it makes float error as large as
# any other update. With this eps it does not, and what is compared is the gradients.
ADAM = {"lr": 1e-3, "betas": [0.0, 0.999], "eps": 1e-2}
IMAGES = torch.randint(0, 256, (32, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(32) % 3


def net():
    return tiny_denoiser(n_classes=3, dropout=0.2)


def teacher(group: Group) -> dict[str, Tensor]:
    p = Teacher(
        net=UNetParameters(resolution=4, stem=1, channels=[8, 8], n_classes=3, dropout=0.2),
        steps=STEPS, batch=BATCH, optimiser=ADAM | {"clip": 1.0}, average={"half_life": 100.0}, label_dropout=0.3,
    )  # fmt: skip
    dataset = Dataset(IMAGES, LABELS, IMAGES, LABELS, 3, 0.5, "test", "")
    state = teacher_state(p, 0.5, group=group)
    for step in range(STEPS):
        teacher_update(state, p, dataset, step)
    return weights(state.modules["teacher"])


def score(group: Group, **changes: object) -> dict[str, Tensor]:
    values = {"updates": STEPS, "batch": BATCH, "student": ADAM, "fake": ADAM, "dropout": True, "average": {"half_life": 50.0}}
    p = validate(ScoreDistillation, values | changes, "method")
    state = score_distillation.distil(path_of(net()), p, 0, lambda student: 0.0, Execution(group=group))
    return {**weights(state.modules["student"]), **{f"fake.{k}": v for k, v in weights(state.modules["fake"]).items()}}


def recording(group: Group) -> dict[str, Tensor]:
    recording = {"steps": STEPS, "nodes": 2, "optimiser": ADAM, "evaluation_batch": 8}
    p = validate(ScoreDistillation, {"updates": 99, "batch": BATCH, "student": ADAM, "fake": ADAM, "recording": recording}, "method")
    data = Labelled(torch.zeros(8, 1, 4, 4), LABELS[:8])
    path, _ = degradation.record(Origin(net()), p, data, 0, Execution(group=group))
    return weights(path.nodes[-1])


def trajectory(group: Group, **changes: object) -> dict[str, Tensor]:
    values = {"rounds": STEPS, "batch": BATCH, "pool": 4, "optimiser": ADAM, "dropout": True}
    p = validate(TrajectoryDistillation, values | changes, "method")
    pool = Pool(net(), p, Labelled(IMAGES, LABELS))
    return weights(trajectory_distillation.distil(pool, 0, lambda student: 0.0, Execution(group=group)).modules["student"])


RUNS: dict[str, Callable[[Group], dict[str, Tensor]]] = {
    "teacher": teacher,
    "recording": recording,
    "score distillation": score,
    "student first, five fake updates": lambda group: score(group, order="student-first", fake_per_student=5),
    "shared noise": lambda group: score(group, shared_noise=True),
    "Algorithm 1": lambda group: trajectory(group, inputs="data"),
    "SFD-v": lambda group: trajectory(group, num_steps=[4, 5], step_condition="random"),
}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The norm of the difference of two sets of weights, against that of the first."""
    assert set(a) == set(b)
    squares = ((a[name] - b[name]).double().square().sum() for name in a)
    return (sum(squares) / sum(value.double().square().sum() for value in a.values())).sqrt().item()


def worker(rank: int, processes: int, folder: Path) -> None:
    """One process of a group; the first writes the weights of every method."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting-{processes}", rank=rank, world_size=processes)
    found = {f"{name}/{key}": value for name, run in RUNS.items() for key, value in run(Group(rank, processes)).items()}
    if rank == 0:
        save_file(found, folder / f"{processes}.safetensors")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    return {name: run(ALONE) for name, run in RUNS.items()}


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_with_one_batch_agree(processes, alone, tmp_path):
    multiprocessing.start_processes(worker, (processes, tmp_path), nprocs=processes, start_method="spawn")
    found = load_file(tmp_path / f"{processes}.safetensors")
    for name, expected in alone.items():
        assert differing(expected, {key: found[f"{name}/{key}"] for key in expected}) < 1e-5, name


@pytest.mark.parametrize("name", RUNS)
def test_passes_over_parts_of_a_batch_agree_with_one_over_the_whole(name, alone):
    assert differing(alone[name], RUNS[name](Group(micro_batch=3))) < 1e-5


def test_the_runs_do_move_the_weights_and_have_dropout(alone):
    start = weights(net())
    assert differing(start, alone["Algorithm 1"]) > 1e-3
    assert differing(alone["score distillation"], score(ALONE, dropout=False)) > 1e-3


@given(batch=st.integers(1, 64), processes=st.integers(1, 8), micro=st.one_of(st.none(), st.integers(1, 20)))
def test_every_row_has_one_owner(batch, processes, micro):
    groups = [Group(rank, processes, micro) for rank in range(processes)]
    if batch % processes:
        with pytest.raises(UserError, match=f"batch = {batch} cannot be divided among {processes} processes"):
            groups[0].parts(batch)
        return
    parts = [part for group in groups for part in group.parts(batch)]
    assert [row for part in parts for row in range(batch)[part.rows]] == list(range(batch))
    assert sum(part.share for part in parts) == pytest.approx(1) and all(0 < part.share <= 1 for part in parts)
    assert all(micro is None or part.rows.stop - part.rows.start <= micro for part in parts)


def test_masks_are_functions_of_the_row_and_have_the_asked_probability():
    x = torch.ones(64, 8, 16, 16)
    whole = Masks(7).dropout(x, 0.3, layer=2)
    assert torch.equal(Masks(7, first_row=24).dropout(x[24:40], 0.3, layer=2), whole[24:40])
    kept = whole != 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=4 * (0.21 / x.numel()) ** 0.5)
    assert torch.equal(whole[kept], torch.full_like(whole[kept], 1 / 0.7))
    # Neighbouring values, rows, layers and keys are uncorrelated.
    shifted = [whole.roll(1, 0), whole.roll(1, 1), whole.roll(1, 3)]
    for other in (Masks(7).dropout(x, 0.3, 3), Masks(8).dropout(x, 0.3, 2), *shifted):
        both = (kept & (other != 0)).float().mean().item()
        assert both == pytest.approx(0.49, abs=5 * (0.25 / x.numel()) ** 0.5)


def test_dropout_without_masks_is_torchs_own_and_the_generator_is_put_back():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    with dropout_masks(0, "test", 3):
        torch.rand(5)
    assert torch.equal(torch.random.get_rng_state(), before)
    x = torch.ones(1000)
    assert dropout(x, 0.0, None, 0) is x and set(dropout(x, 0.5, None, 0).unique().tolist()) == {0.0, 2.0}


def test_blocks_computed_again_give_the_same_gradient_with_dropout():
    gradients = []
    for again in (False, True):
        model = net().train().requires_grad_(True)
        if again:
            checkpoint_blocks(model.net)
        with dropout_masks(0, "test", 0):
            loss = model(torch.ones(4, 1, 4, 4), torch.full((4,), 0.5)).square().sum()
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None})
    assert gradients[0] and all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    with pytest.raises(ValueError, match="Linear has no blocks"):
        checkpoint_blocks(torch.nn.Linear(1, 1))
