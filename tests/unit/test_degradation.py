"""Degradation recording: the nodes are fits to the student, kept where they should be, and a path on disk is what it says."""

import copy
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backtrail.data.dataset import Labelled
from backtrail.denoiser import EDMDenoiser
from backtrail.errors import UserError
from backtrail.methods.disback.one_step import generate
from backtrail.methods.disback.path import START, DegradationPath, Origin, load_path, node_file, save_path
from backtrail.methods.disback.recording import PathLoss, choose_nodes, converged, fit_to_student, record
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.parameters.base import validate
from backtrail.parameters.score_distillation import Recording, ScoreDistillation
from backtrail.parameters.training import LogNormal
from backtrail.randomness import Draw
from backtrail.tables import load_csv, save_csv
from backtrail.tensors import tensors_digest
from backtrail.training.noise import denoising_loss, score_matching_loss
from unit.oracles import GaussianDenoiser, tiny_denoiser

SHAPE = (1, 4, 4)
ADAM = {"lr": 3e-3, "betas": [0.0, 0.999]}
DATA = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(5)).clamp(-1, 1)


def recording(**changes) -> dict:
    return {"steps": 40, "nodes": 3, "optimiser": ADAM, "evaluation_batch": 64} | changes


def parameters(**changes) -> ScoreDistillation:
    base = {"updates": 100, "batch": 16, "student": ADAM, "fake": ADAM, "recording": recording()}
    return validate(ScoreDistillation, base | changes, "method")


def recorded_path(teacher, p=None, data=None, **start):
    """Nodes, rows, and how the recording ended."""
    path, how = record(Origin(teacher, **start), p or parameters(), data or Labelled(DATA), 0)
    return path.nodes, path.table.to_dict("records"), how


@pytest.fixture(scope="module")
def recorded():
    """A teacher with structure, its path, the rows, how the recording ended."""
    teacher = tiny_denoiser(1, scale=0.15)
    return teacher, *recorded_path(teacher)


@pytest.mark.slow
def test_the_paths_loss_falls_on_the_students_samples_and_rises_on_data_for_a_trained_teacher():
    """A teacher fitted to data: each node fits the initial student's samples better than the one before."""
    teacher = tiny_denoiser(1)
    p = parameters(noise_fake={"kind": "lognormal", "mean": -0.5, "std": 0.8}, recording=recording(optimiser={**ADAM, "lr": 1e-3}))
    fitted = copy.deepcopy(teacher).requires_grad_(True)
    optimiser = torch.optim.Adam(fitted.parameters(), lr=3e-3)
    for step in range(400):
        loss = score_matching_loss(fitted, 0.3 * DATA, p.noise_fake, Draw(0, "pretrain", step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    _, rows, _ = recorded_path(fitted.requires_grad_(False), p, Labelled(0.3 * DATA))
    on_student, on_data = ([row[key] for row in rows] for key in ("loss_student", "loss_data"))
    assert all(after < before for before, after in itertools.pairwise(on_student))
    assert on_data[-1] > on_data[0]


def test_node_zero_is_the_teacher_itself_and_it_is_not_touched(recorded):
    teacher, nodes, rows, how = recorded
    assert nodes[0] is teacher and rows[0]["step"] == 0
    assert tensors_digest(teacher.state_dict()) == tensors_digest(tiny_denoiser(1, scale=0.15).state_dict())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert len(nodes) == len(rows) == 4 and len({tensors_digest(node.state_dict()) for node in nodes}) == 4
    assert how == {"stopped_by": "budget", "steps": 40} and rows[-1]["step"] == 40
    assert not any(parameter.requires_grad for node in nodes for parameter in node.parameters())


def test_the_recording_has_the_losses_that_its_nodes_have(recorded):
    teacher, nodes, rows, _ = recorded
    measure = PathLoss(copy.deepcopy(teacher), parameters(), Labelled(DATA), 0)
    for node, row in zip(nodes, rows, strict=True):
        assert measure(node) == {"loss_student": row["loss_student"], "loss_data": row["loss_data"]}


def test_another_start_gives_another_path_and_the_same_start_the_same(recorded):
    teacher, nodes, *_ = recorded
    same, _, _ = recorded_path(teacher, start=teacher)
    other, _, _ = recorded_path(teacher, start=tiny_denoiser(2))
    assert tensors_digest(same[-1].state_dict()) == tensors_digest(nodes[-1].state_dict())
    assert tensors_digest(other[-1].state_dict()) != tensors_digest(nodes[-1].state_dict())
    with pytest.raises(UserError, match="another architecture than the teacher"):
        recorded_path(teacher, start=tiny_denoiser(image_channels=3))


def test_without_a_recording_the_path_is_the_teacher():
    teacher = tiny_denoiser()
    nodes, rows, how = recorded_path(teacher, parameters(recording=None))
    assert nodes == [teacher] and len(rows) == 1 and how == {"stopped_by": "path of one node", "steps": 0}


def test_a_conditional_path_needs_the_datas_labels_and_uses_them():
    teacher, p = tiny_denoiser(n_classes=3), parameters()
    with pytest.raises(ValueError, match="needs the labels of the data"):
        recorded_path(teacher, p)
    losses = [PathLoss(teacher, p, Labelled(DATA, labels), 0)(teacher) for labels in (torch.zeros(64).long(), torch.ones(64).long())]
    assert losses[0]["loss_student"] == losses[1]["loss_student"] and losses[0]["loss_data"] != losses[1]["loss_data"]


def test_convergence_stops_the_recording_and_is_named():
    teacher = tiny_denoiser()
    nodes, rows, how = recorded_path(teacher, parameters(recording=recording(steps=400, tolerance=0.9)))
    assert how["stopped_by"] == "convergence" and how["steps"] == rows[-1]["step"] < 400 and len(nodes) == 4


def test_convergence_compares_the_last_quarter_of_the_updates():
    rows = [{"loss_student": value} for value in (8.0, 4.0, 3.0, 2.6, 2.5, 2.45, 2.44, 2.43)]
    assert not converged(rows, None)
    # Eight rows: the last quarter is two of them, and the loss fell from 2.45 to 2.43, by 0.8 %.
    assert converged(rows, 0.01) and not converged(rows, 0.008)
    assert not converged(rows[:4], 0.99)


@st.composite
def recordings(draw):
    n = draw(st.integers(1, 40))
    losses = draw(st.lists(st.floats(0.01, 10.0), min_size=n + 1, max_size=n + 1))
    gaps = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    steps = [0, *np.cumsum(gaps).tolist()]
    nodes = draw(st.integers(1, n))
    spacing = draw(st.sampled_from(["every", "log", "loss"]))
    rows = [{"step": s, "loss_student": loss} for s, loss in zip(steps, losses, strict=True)]
    return rows, validate(Recording, {"steps": max(steps[-1], n), "nodes": nodes, "spacing": spacing, "optimiser": ADAM}, "recording")


@given(recordings())
def test_nodes_are_different_in_order_and_end_with_the_recording(case):
    rows, p = case
    chosen = choose_nodes(rows, p)
    steps = [row["step"] for row in chosen]
    assert len(chosen) == p.nodes and steps == sorted(set(steps)) and steps[0] > 0
    assert steps[-1] == rows[-1]["step"] and all(row in rows for row in chosen)


@given(nodes=st.integers(1, 8))
def test_nodes_lie_at_equal_steps_of_what_the_spacing_names(nodes):
    """On a fine recording each node is within one candidate of its equal share; the loss falls as 1 / (1 + step / 20)."""
    rows = [{"step": s, "loss_student": 1 / (1 + s / 20)} for s in range(2001)]
    measures = {"every": lambda s: s / 2000, "log": lambda s: math.log1p(s) / math.log1p(2000)}
    measures["loss"] = lambda s: (1 - 1 / (1 + s / 20)) / (1 - 1 / 101)
    for spacing, place in measures.items():
        p = validate(Recording, {"steps": 2000, "nodes": nodes, "spacing": spacing, "optimiser": ADAM}, "recording")
        for k, row in enumerate(choose_nodes(rows, p), start=1):
            assert place(max(row["step"] - 1, 0)) <= k / nodes + 1e-12 and place(row["step"] + 1) >= k / nodes - 1e-12


def test_the_fit_of_a_score_is_the_optimum_for_a_gaussian_student():
    """The optimum of the recording's loss is the denoiser of the student's own samples: no other Gaussian's is better."""
    student = GaussianDenoiser(0.0, 0.09)
    student.forward = lambda x, sigma, condition=None: 0.3 * x / sigma + 0.1  # samples N(0.1, 0.09)
    z = 2.5 * Draw(0, "z").normal((40_000, 1, 1, 1))
    x0 = generate(student, z, 2.5)
    best = None
    for mean, std in [(0.1, 0.3), (0.0, 0.3), (0.2, 0.3), (0.1, 0.25), (0.1, 0.36), (0.0, 0.5)]:
        model = GaussianDenoiser(mean, std**2)
        loss = score_matching_loss(model, x0, LogNormal(mean=-0.8, std=1.0), Draw(0, "fit")).item()
        best = loss if best is None else best
        assert loss >= best
    # The least possible loss is the mean over sigma of weight x posterior variance.
    noisy_loss = denoising_loss(EDMDenoiser(None, 0.5), torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.tensor([2.0])).item()
    assert noisy_loss == pytest.approx((4 + 0.25) / 1.0)


def test_fitting_further_brings_the_fake_score_closer_to_the_student(recorded):
    teacher, nodes, rows, _ = recorded
    measure = PathLoss(copy.deepcopy(teacher), parameters(), Labelled(DATA), 0)
    fitted = fit_to_student(nodes[1], teacher, parameters(), 0, 60)
    assert measure(fitted)["loss_student"] < rows[1]["loss_student"]
    assert tensors_digest(nodes[1].state_dict()) != tensors_digest(fitted.state_dict())


# --- the path on disk -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(recorded, tmp_path):
    _, nodes, rows, how = recorded
    save_path(tmp_path / "path", DegradationPath(nodes, pd.DataFrame(rows)), how)
    return tmp_path / "path"


def test_a_path_comes_back_to_the_bit(recorded, folder):
    _, nodes, rows, _ = recorded
    path = load_path(folder)
    assert [tensors_digest(n.state_dict()) for n in path.nodes] == [tensors_digest(n.state_dict()) for n in nodes]
    assert path.recorded_steps == 40 and path.cost == 160 and path.table["step"].tolist() == [row["step"] for row in rows]
    assert path.table["loss_student"].tolist() == pytest.approx([row["loss_student"] for row in rows], rel=1e-8)


def test_a_missing_node_is_named(folder):
    node_file(folder, 2).unlink()
    with pytest.raises(UserError, match=r"node-002.safetensors is missing: run the stage"):
        load_path(folder)


def test_an_altered_node_is_named(folder):
    node = load_denoiser(node_file(folder, 1))
    next(node.parameters()).data.view(-1)[0] += 1e-6
    save_denoiser(node_file(folder, 1), node, node=1)
    with pytest.raises(UserError, match=r"node-001.safetensors has digest \w{12}, path.csv names \w{12}"):
        load_path(folder)


def test_nodes_of_another_architecture_are_refused(folder):
    stranger = tiny_denoiser(image_channels=3)
    save_denoiser(node_file(folder, 3), stranger, node=3)
    table = load_csv(folder / "path.csv")
    table.loc[3, "digest"] = tensors_digest(stranger.state_dict())
    save_csv(folder / "path.csv", table)
    with pytest.raises(UserError, match=r"node-003.safetensors is another architecture than the teacher"):
        load_path(folder)


def test_a_table_with_a_gap_is_refused(folder):
    table = load_csv(folder / "path.csv")
    save_csv(folder / "path.csv", table[table["node"] != 1])
    with pytest.raises(UserError, match="does not list the nodes 0, 1, 2"):
        load_path(folder)


@pytest.fixture
def started(recorded, tmp_path):
    """The folder of a path whose student starts from another method's."""
    _, nodes, rows, how = recorded
    save_path(tmp_path / "path", DegradationPath(nodes, pd.DataFrame(rows), tiny_denoiser(7), 1234), how)
    return tmp_path / "path"


def test_a_path_carries_the_student_that_it_starts_from(recorded, started):
    path = load_path(started)
    assert tensors_digest(path.start.state_dict()) == tensors_digest(tiny_denoiser(7).state_dict())
    assert path.start_cost == 1234 and path.cost == 1234 + 160
    assert path.placed(lambda net: net.double()).start.device.type == "cpu" and next(path.start.parameters()).dtype == torch.float64


def test_a_path_without_a_start_has_none(folder):
    path = load_path(folder)
    assert path.start is None and path.start_cost == 0 and not (folder / START).exists()


def test_a_start_that_is_missing_or_another_is_named(started):
    save_denoiser(started / START, tiny_denoiser(8), cost=1234)
    with pytest.raises(UserError, match=r"start.safetensors has digest \w{12}, node 0 names \w{12}"):
        load_path(started)
    (started / START).unlink()
    with pytest.raises(UserError, match=r"start.safetensors is missing: run the stage"):
        load_path(started)
