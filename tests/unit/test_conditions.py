"""What denoisers are told: captions beside classes, guidance's other branch, and that the methods take either without knowing which."""

import copy
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from backtrail.conditions import Captions, Condition, Conditions, Labels
from backtrail.data.dataset import Labelled
from backtrail.denoiser import Guided, guided
from backtrail.errors import UserError
from backtrail.methods.disback.distillation import distil, target_of, update_cost
from backtrail.methods.disback.family import sampling, training_forwards
from backtrail.methods.disback.path import DegradationPath, Origin
from backtrail.methods.disback.recording import record
from backtrail.methods.sfd.trajectories import Pool, load_pool
from backtrail.nets.discrete_time import DiscreteTime, DiscreteTimeDenoiser
from backtrail.parameters.base import validate
from backtrail.parameters.discrete_time import STABLE_DIFFUSION
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.randomness import Draw, Part
from backtrail.sampling.sample import CHUNK, Sampler, sample, sample_states

SHAPE, L, D, P = (2, 4, 4), 3, 8, 5
ADAM = {"lr": 1e-3}


def captions(n: int, seed: int) -> Condition:
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, L + 1, (n, 1), generator=random)
    return Condition(
        tokens=torch.randn(n, L, D, generator=random),
        mask=torch.arange(L) < lengths,
        pooled=torch.randn(n, P, generator=random),
        time_ids=torch.randint(0, 9, (n, 6), generator=random).float(),
    )


EMPTY = replace(captions(1, 3), time_ids=None)
ZEROS = Condition(tokens=torch.zeros(1, L, D), pooled=torch.zeros(1, P))
TEXTS = Captions(captions(7, 1), captions(5, 2), EMPTY)


class TextNet(nn.Module):
    """F of everything that a condition may say, and linear in none of it."""

    image_shape, n_classes, step_condition = SHAPE, 0, False

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
        self.tokens, self.pooled, self.ids = nn.Linear(D, 8), nn.Linear(P, 8), nn.Linear(6, 8)

    def forward(self, x, time, condition):
        attended = torch.ones(condition.tokens.shape[:2]) if condition.mask is None else condition.mask.float()
        words = (self.tokens(condition.tokens).tanh() * attended[:, :, None]).sum(1) / attended.sum(1, keepdim=True)
        told = words + self.pooled(condition.pooled) + self.ids(condition.time_ids / 9) + time[:, None] / 1000
        return self.outer((self.inner(x) + told[:, :, None, None]).tanh())


def denoiser(told: Conditions | None = TEXTS) -> DiscreteTimeDenoiser:
    made = DiscreteTimeDenoiser(TextNet(), DiscreteTime(**STABLE_DIFFUSION.model_dump())).eval().requires_grad_(False)
    made.told = told
    return made


def same(a: Condition | None, b: Condition | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.told.keys() == b.told.keys() and all(torch.equal(a.told[k], b.told[k]) for k in a.told)


# --- conditions -------------------------------------------------------------------------------------------------------------------------


def test_rows_of_a_condition_are_those_of_each_field():
    whole = captions(7, 1)
    assert whole.n_rows == 7 and same(whole.rows(slice(2, 4)), whole.rows(torch.tensor([2, 3])))
    assert torch.equal(whole.rows(slice(2, 4)).tokens, whole.tokens[2:4]) and whole.rows(slice(2, 4)).labels is None
    with pytest.raises(ValueError, match=r"a row for each image, found .*'time_ids': 2"):
        assert replace(whole, time_ids=whole.time_ids[:2]).n_rows


def test_the_other_branch_of_guidance_says_what_null_says_and_keeps_the_rest():
    own = replace(captions(4, 1), steps=torch.full((4,), 5.0))
    branch = own.under(EMPTY, 4)
    assert all(torch.equal(branch.told[k], EMPTY.told[k].expand_as(branch.told[k])) for k in ("tokens", "mask", "pooled"))
    assert torch.equal(branch.steps, own.steps) and torch.equal(branch.time_ids, own.time_ids)
    zeros = own.under(ZEROS, 4)
    assert zeros.mask is None and not zeros.tokens.any() and not zeros.pooled.any() and torch.equal(zeros.time_ids, own.time_ids)
    longer = own.under(Condition(tokens=torch.ones(1, L + 2, D), pooled=torch.ones(1, P)), 4)
    assert longer.tokens.shape == (4, L + 2, D) and longer.mask is None
    labels = Condition(labels=torch.tensor([1, 2])).under(Labels(9).null, 2)
    assert labels.labels.tolist() == [9, 9]
    with pytest.raises(ValueError, match="guidance needs labels in the condition"):
        own.under(Labels(9).null, 4)
    with pytest.raises(ValueError, match="guidance needs pooled, tokens in the condition"):
        Guided(denoiser(), 2.0, EMPTY)(torch.zeros(1, *SHAPE), torch.tensor(1.0))


@pytest.mark.parametrize("null", [EMPTY, ZEROS], ids=["empty", "zeros"])
def test_guidance_by_either_null_is_the_combination_of_both_branches(null):
    model, told = denoiser(), captions(4, 5)
    x, sigma = torch.randn(4, *SHAPE), torch.tensor([0.2, 1.0, 4.0, 12.0])
    other = replace(told, **{"mask": None} | {k: v.expand(4, *v.shape[1:]) for k, v in null.told.items()})
    expected = 7.5 * model(x, sigma, told) - 6.5 * model(x, sigma, other)
    torch.testing.assert_close(Guided(model, 7.5, null)(x, sigma, told), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(Guided(model, 1.0, null)(x, sigma, told), model(x, sigma, told))
    assert (model(x, sigma, told) - model(x, sigma, other)).abs().max() > 1e-2


def test_where_nothing_is_told_guidance_is_refused():
    assert Labels().null is None and Labels().of_images(range(3)) is None and Labels().of_data(None) is None
    model = denoiser(None)
    assert guided(model, 1.0, Labels()) is model
    with pytest.raises(UserError, match=r"guidance 2.0 needs a denoiser that was trained on classes and on their absence"):
        guided(model, 2.0, Labels())


def test_captions_are_drawn_evenly_and_as_the_draw_says():
    whole = TEXTS.drawn(Draw(0, "a"), 4000)
    numbers = (whole.pooled[:, None] == TEXTS.training.pooled).all(-1).long().argmax(1)
    assert torch.bincount(numbers, minlength=7).min() > 4000 / 7 - 5 * (4000 / 7) ** 0.5
    part = Part(slice(10, 30), 4000)
    assert same(TEXTS.drawn(Draw(0, "a", part=part), 4000), whole.rows(part.rows))
    assert same(TEXTS.of_data(torch.tensor([6, 0])), TEXTS.training.rows(torch.tensor([6, 0])))
    assert same(TEXTS.of_images([4, 5, 11]), TEXTS.evaluation.rows(torch.tensor([4, 0, 1])))
    for conditions in (TEXTS, Labels(3)):
        with pytest.raises(ValueError, match="of the data"):
            conditions.of_data(None)


def test_copies_of_a_denoiser_share_what_they_are_told():
    model = denoiser()
    assert copy.deepcopy(model).conditions is TEXTS and isinstance(denoiser(None).conditions, Labels)


# --- sampling ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [Sampler("dpmpp-2m", 4, guidance=3.0), Sampler("euler", 3, afs=True), Sampler(sigma_init=1.16)])
def test_an_image_of_text_is_the_same_for_every_range_that_holds_it(sampler):
    model = denoiser()
    whole = sample(model, sampler, range(2 * CHUNK), SHAPE, model.conditions)
    for images in (range(3), range(60, 70), range(127, 128)):
        assert torch.equal(sample(model, sampler, images, SHAPE, model.conditions), whole[images.start : images.stop])
    first = sample_states(model, sampler, 5)[-1]
    torch.testing.assert_close(first, whole[:5], rtol=1e-4, atol=1e-4)
    assert not torch.equal(whole[0], sample(model, sampler, range(1), SHAPE, Captions(TEXTS.training, captions(5, 9), EMPTY))[0])


# --- methods ----------------------------------------------------------------------------------------------------------------------------


def score(**changes) -> ScoreDistillation:
    base = {"updates": 3, "batch": 4, "student": ADAM, "fake": ADAM, "evaluate_every": 1, "sigma_init": {"t": 399}, "weighting": "dmd"}
    return validate(
        ScoreDistillation, base | {"noise_fake": {"kind": "discrete"}, "noise_student": {"kind": "discrete"}} | changes, "method"
    )


RECORDING = {"steps": 4, "nodes": 2, "spacing": "every", "optimiser": ADAM, "evaluation_batch": 4}


def test_disback_takes_captions_and_a_weight_of_guidance_of_its_own_for_each_kind_of_target():
    p, teacher = score(recording=RECORDING, teacher_guidance=8.0, node_guidance=1.0), denoiser()
    data = Labelled(torch.randn(6, *SHAPE), torch.tensor([0, 6, 2, 3, 1, 5]))
    path, _ = record(Origin(teacher), p, data, 0)
    assert isinstance(target_of(path, 0, p), Guided) and target_of(path, 1, p) is path.nodes[1]
    calls = []
    for node in path.nodes:
        node.register_forward_hook(lambda module, *_: calls.append(path.nodes.index(module)) if module in path.nodes else None)
    state = distil(path, p, 0, lambda student: 0.0)
    assert [row["node"] for row in state.rows] == [1, 1, 0, 0] and calls == [1, 0, 0, 0, 0]
    assert state.guided == 2
    each = update_cost(p)
    assert [row["cost"] - path.cost for row in state.rows] == [0, each, 2 * each + 1, 3 * each + 2]
    assert training_forwards(p, 10) == p.batch * (3 * each + 2) + 4 * 10
    moved = [not torch.equal(a, b) for a, b in zip(state.modules["student"].parameters(), teacher.parameters(), strict=True)]
    assert all(moved)


def test_the_weight_of_guidance_of_the_target_is_in_the_students_gradient():
    """With equal nets and no guidance the student stays; with guidance it moves, by the weight less one."""
    teacher = denoiser()
    path = DegradationPath([teacher], pd.DataFrame([{"step": 0, "loss_student": 1.0, "loss_data": 1.0}]))
    losses = {}
    for w in (1.0, 3.0, 5.0):
        p = score(updates=1, teacher_guidance=w, weighting="sigma2", order="student-first")
        losses[w] = distil(path, p, 0, lambda student: 0.0).rows[-1]["loss_student"]
    assert losses[1.0] < 1e-6 < losses[3.0] and losses[5.0] == pytest.approx(2 * losses[3.0], rel=1e-4)


def test_a_student_is_sampled_at_the_level_of_its_time_step():
    teacher = denoiser()
    assert sampling(score(), teacher).sigma_init == teacher.sigmas[399].item() == pytest.approx(1.160578322, rel=1e-9)


SFD = {"rounds": 2, "pool": 2, "batch": 4, "num_steps": [3, 4], "step_condition": "zero", "solver": "dpmpp-2m-eps", "optimiser": ADAM}
SCHEDULE = {"kind": "discrete", "t_min": 0.1, "t_max": 14.6146412, "rho": 1.0}


@pytest.mark.parametrize("inputs", ["trajectory", "data"])
def test_a_cached_pool_tells_the_captions_again_that_its_teacher_was_told(inputs, tmp_path):
    p = validate(TrajectoryDistillation, SFD | {"schedule": SCHEDULE, "inputs": inputs}, "method")
    data = Labelled(torch.randn(6, *SHAPE), torch.arange(6))
    fresh = Pool(denoiser(), p, data)
    fresh.save(tmp_path / "pool.safetensors", {})
    cached = load_pool(tmp_path / "pool.safetensors", denoiser(), p, data)
    assert cached.cache is not None and not [name for name in cached.cache if "tokens" in name]
    for num_steps in (3, 4):
        for part in (None, Part(slice(1, 3), 4)):
            own, again = (pool.piece(num_steps, 1, part) for pool in (fresh, cached))
            torch.testing.assert_close(own.states, again.states, **({"rtol": 0, "atol": 0} if part is None else {}))
            assert same(own.condition, again.condition) and own.condition.n_rows == own.states.shape[1]
    assert (fresh.piece(3, 0).states[0] / 14.6146412).std().item() == pytest.approx(1, abs=0.2) or inputs == "data"
