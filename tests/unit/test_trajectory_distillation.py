"""Trajectory distillation: one pass gives the dossier's numbers, the cache equals the fly, nothing else moves, and what is refused."""

import pytest
import torch

from backtrail.data.dataset import Labelled
from backtrail.denoiser import Condition
from backtrail.errors import UserError
from backtrail.methods.disback.distillation import distil as score_distil
from backtrail.methods.disback.path import Origin
from backtrail.methods.disback.recording import record
from backtrail.methods.sfd import distillation as trajectory_distillation
from backtrail.methods.sfd.distillation import DISTANCES, distil, plan, walk
from backtrail.methods.sfd.trajectories import Piece, Pool, load_pool, student_times, teacher_evaluations, teacher_times
from backtrail.nets.build import at_step_condition, load_denoiser, save_denoiser, with_step_condition
from backtrail.parameters.base import validate
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.sampling.sample import Sampler
from backtrail.sampling.solvers import SOLVERS, AnalyticalFirstStep
from backtrail.tensors import load_tensors, save_tensors, tensors_digest
from unit.oracles import GaussianDenoiser, gaussian_ode, tiny_denoiser

IMAGES = torch.randint(256, (50, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(50) % 3
DATA = Labelled(IMAGES, LABELS)


def parameters(**changes) -> TrajectoryDistillation:
    base = {"rounds": 5, "batch": 4, "pool": 3, "optimiser": {"lr": 1e-3}, "evaluate_every": 1}
    return validate(TrajectoryDistillation, base | changes, "method")


def run(teacher, p, seed=0, **pool):
    return distil(Pool(teacher, p, DATA, **pool), seed, lambda student: 0.0)


# --- the dossier's numbers ------------------------------------------------------------------------------------------------------------

TARGETS = [5.4699497236, 0.4134885113, 0.2914486481]
STATES = {False: [5.4659977203, 0.3457418679, 0.1256894673], True: [5.4673464935, 0.3458271820, 0.1257204821]}
LOSSES = {False: [0.0039520033, 0.0677466434, 0.1657591808], True: [0.0026032296, 0.0676613292, 0.1657281660]}


@pytest.mark.parametrize("afs", [False, True])
def test_one_pass_gives_the_released_step_values(afs):
    """Data ~ N(0, 0.25), student = teacher, x_N = 40, NFE 2 with AFS, K = 4, DPM-Solver++(3M)."""
    denoiser, p = GaussianDenoiser(0.0, 0.25), parameters(afs=afs)
    start = torch.full((1, 1, 1, 1), 40.0, dtype=torch.float64)
    states = [start, *SOLVERS[p.solver](denoiser, start, teacher_times(p, 4))][:: p.substeps]
    assert [state.item() for state in states[1:]] == pytest.approx(TARGETS, abs=1e-8)
    steps = list(walk(denoiser, Piece(4, 0, torch.stack(states)), p))
    assert [index for index, _, _ in steps] == [0, 1, 2][afs:]
    assert [predicted.item() for _, predicted, _ in steps] == pytest.approx(STATES[afs][afs:], abs=1e-8)
    losses = [DISTANCES["l1"](predicted, target).item() for _, predicted, target in steps]
    assert losses == pytest.approx(LOSSES[afs][afs:], abs=1e-8)


def test_algorithm_one_solves_the_ode_from_noisy_data_over_one_step():
    teacher, p = GaussianDenoiser(0.2, 0.09), parameters(inputs="data", substeps=200, solver="heun", batch=64)
    for batch in range(4):
        piece = Pool(teacher, p, DATA).piece(4, batch)
        t, t_next = student_times(p, 4)[piece.first : piece.first + 2].tolist()
        exact = gaussian_ode(piece.states[0].double(), t, t_next, 0.2, 0.09)
        assert (piece.states[1].double() - exact).abs().max() < 1e-4 * t
        assert 1 <= piece.first <= 2  # the analytical first step is not learned
        # x_{n+1} is data with noise of the step's own level.
        assert piece.states[0].std().item() == pytest.approx((t**2 + 0.34) ** 0.5, rel=0.1)


def test_losses_by_hand():
    x, y = torch.tensor([[[[3.0, -4.0]]], [[[0.0, 1.0]]]]), torch.zeros(2, 1, 1, 2)
    assert DISTANCES["l1"](x, y).item() == pytest.approx((7 + 1) / 2)
    assert DISTANCES["l2"](x, y).item() == pytest.approx((25 + 1) / 2)
    c = 0.00054 * 2**0.5
    assert DISTANCES["huber"](x, y).item() == pytest.approx((((25 + c**2) ** 0.5 - c) + ((1 + c**2) ** 0.5 - c)) / 2)
    assert DISTANCES["huber"](x, x).item() == 0.0


def test_one_pass_by_hand_ends_with_the_same_weights():
    """Algorithm 2 written down without the method's parts: an Adam update per step, the walk goes on from the detached prediction."""
    teacher, p = tiny_denoiser(), parameters(rounds=1, pool=1, decay_at=1.0)
    found = run(teacher, p).modules["student"]
    student = tiny_denoiser().requires_grad_(True)
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-3, betas=(0.9, 0.999), fused=True)
    piece, times = Pool(teacher, p, DATA).piece(4, 0), student_times(p, 4).tolist()
    x = piece.states[0]
    d = x - x * (1 - torch.tensor(80.0 / (1 + 80.0**2) ** 0.5, dtype=torch.float64)).float()
    x = x + (times[1] - times[0]) * (d / times[0])
    for n in (1, 2):
        predicted = x + (times[n + 1] - times[n]) * ((x - student(x, torch.tensor(times[n]))) / times[n])
        loss = (predicted - piece.states[n + 1]).abs().flatten(1).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        x = predicted.detach()
    for ours, theirs in zip(found.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


# --- the pool -------------------------------------------------------------------------------------------------------------------------

POOLS = {
    "sfd": {},
    "sfd-v": {"num_steps": [4, 6], "step_condition": "zero", "solver": "heun"},
    "data": {"inputs": "data"},
    "teacher-afs": {"teacher_afs": True, "solver": "euler", "num_steps": [3], "substeps": 3},
}


@pytest.mark.parametrize("n_classes", [0, 3])
@pytest.mark.parametrize("name", POOLS)
def test_trajectories_from_the_cache_equal_those_on_the_fly_to_the_bit(name, n_classes, tmp_path):
    teacher, p = tiny_denoiser(n_classes=n_classes), parameters(**POOLS[name])
    fly = Pool(teacher, p, DATA)
    fly.save(tmp_path / "pool.safetensors", {"method": name})
    cached = load_pool(tmp_path / "pool.safetensors", teacher, p, DATA)
    for num_steps in p.num_steps:
        for batch in range(p.pool):
            a, b = fly.piece(num_steps, batch), cached.piece(num_steps, batch)
            assert torch.equal(a.states, b.states) and (a.num_steps, a.first) == (b.num_steps, b.first)
            assert (a.condition is None and b.condition is None) == (n_classes == 0)
            assert n_classes == 0 or torch.equal(a.condition.labels, b.condition.labels)
    students = [distil(pool, 0, lambda student: 0.0).modules["student"].state_dict() for pool in (fly, cached)]
    assert tensors_digest(students[0]) == tensors_digest(students[1])


def test_an_uncached_pool_says_so(tmp_path):
    teacher, p = tiny_denoiser(), parameters(cached=False)
    Pool(teacher, p, DATA).save(tmp_path / "pool.safetensors", {})
    assert load_tensors(tmp_path / "pool.safetensors")[1]["cached"] is False
    pool = load_pool(tmp_path / "pool.safetensors", teacher, p, DATA)
    assert torch.equal(pool.piece(4, 1).states, Pool(teacher, p, DATA).piece(4, 1).states)


def test_a_pool_of_other_trajectories_or_with_a_hole_is_refused(tmp_path):
    file = tmp_path / "pool.safetensors"
    Pool(tiny_denoiser(), parameters(), DATA).save(file, {})
    with pytest.raises(UserError, match=r"pool.safetensors was made with another solver, substeps: run the stage"):
        load_pool(file, tiny_denoiser(), parameters(solver="heun", substeps=2), DATA)
    tensors, metadata = load_tensors(file)
    del tensors["4/00001/states"]
    save_tensors(file, tensors, metadata)
    with pytest.raises(UserError, match=r"lacks 1 of 6 entries \(first: 4/00001/states\)"):
        load_pool(file, tiny_denoiser(), parameters(), DATA)


def test_labels_of_a_conditional_teacher_are_used():
    teacher, p = tiny_denoiser(n_classes=3), parameters(inputs="data", batch=32)
    piece = Pool(teacher, p, DATA).piece(4, 0)
    assert set(piece.condition.labels.tolist()) == {0, 1, 2}
    other = Pool(teacher, p, Labelled(IMAGES, (LABELS + 1) % 3)).piece(4, 0)
    assert torch.equal(piece.states[0], other.states[0]) and not torch.equal(piece.states[1], other.states[1])
    with pytest.raises(ValueError, match="needs the images' labels"):
        Pool(teacher, p, Labelled(IMAGES)).piece(4, 0)
    with pytest.raises(ValueError, match="needs the training images"):
        Pool(teacher, p).piece(4, 0)


@pytest.mark.parametrize("name", POOLS)
def test_teacher_evaluations_are_those_made(name):
    teacher, p, calls = tiny_denoiser(), parameters(**POOLS[name]), []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    for num_steps in p.num_steps:
        calls.clear()
        Pool(teacher, p, DATA).piece(num_steps, 0)
        assert len(calls) == teacher_evaluations(p, num_steps)


def test_a_seed_goes_through_the_whole_pool_before_it_comes_back():
    p = parameters(pool=7, rounds=21)
    laps = [[plan(p, 0, step)[1] for step in range(7 * lap, 7 * lap + 7)] for lap in range(3)]
    assert all(sorted(lap) == list(range(7)) for lap in laps) and len({tuple(lap) for lap in laps}) == 3
    assert [plan(p, 1, step)[1] for step in range(7)] != laps[0]
    several = parameters(num_steps=[4, 5, 6, 7], step_condition="zero", rounds=400)
    counts = [[plan(several, 0, step)[0] for step in range(400)].count(n) for n in (4, 5, 6, 7)]
    assert min(counts) > 60 and sum(counts) == 400


# --- the student ----------------------------------------------------------------------------------------------------------------------


def test_the_teacher_is_unchanged_and_gets_no_gradient():
    for changes in POOLS.values():
        teacher = tiny_denoiser()
        before = tensors_digest(teacher.state_dict())
        run(teacher, parameters(**changes))
        assert tensors_digest(teacher.state_dict()) == before
        assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("afs", [False, True])
def test_an_update_per_learned_step_and_the_learning_rate_falls_once(afs, monkeypatch):
    rates, step = [], trajectory_distillation.optimiser_step

    def spy(optimiser, *rest):
        step(optimiser, *rest)
        rates.append(optimiser.param_groups[0]["lr"])

    monkeypatch.setattr(trajectory_distillation, "optimiser_step", spy)
    # SFD's loop looks after round r (from 0) whether r batches of the 4 are half: true after r = 2, so round 3 is the first with a tenth.
    p = parameters(afs=afs, rounds=4, decay_at=0.5)
    state = run(tiny_denoiser(), p)
    per_round = 3 - afs
    assert rates == pytest.approx([1e-3] * 3 * per_round + [1e-4] * per_round)
    assert state.updates == 4 * per_round
    assert [row["cost"] for row in state.rows] == [n * (12 + 3 * per_round) for n in range(5)]
    assert run(tiny_denoiser(), p, teacher_cost=700).rows[-1]["cost"] == 700 + 4 * (12 + 3 * per_round)


def test_no_gradient_crosses_the_steps():
    """The gradient of a later step, with the walk made of the student's own states, is that of this step alone."""
    student, p = tiny_denoiser().requires_grad_(True), parameters(afs=False)
    piece = Pool(tiny_denoiser(3), p).piece(4, 0)
    (_, first, _), (_, second, target) = (item for item in walk_first_two(student, piece, p))
    assert first.grad_fn is not None and second.grad_fn is not None
    DISTANCES["l1"](second, target).backward()
    whole = [parameter.grad.clone() for parameter in student.parameters()]
    student.zero_grad()
    times = student_times(p, 4)
    (alone,) = SOLVERS["euler"](student, first.detach(), times[1:3])
    DISTANCES["l1"](alone, target).backward()
    assert all(torch.equal(a, parameter.grad) for a, parameter in zip(whole, student.parameters(), strict=True))


def walk_first_two(student, piece, p):
    steps = walk(student, piece, p)
    return next(steps), next(steps)


def test_dropout_is_a_function_of_the_seed_and_the_round_and_off_by_default():
    teacher = tiny_denoiser(dropout=0.4)
    digests = []
    for dropout in (True, True, False):
        torch.rand(3)
        digests.append(tensors_digest(run(teacher, parameters(dropout=dropout)).modules["student"].state_dict()))
    assert digests[0] == digests[1] != digests[2]


def test_a_student_with_a_step_condition_starts_equal_to_the_teacher_or_at_random():
    teacher, x, sigma = tiny_denoiser(), torch.randn(3, 1, 4, 4), torch.tensor(1.5)
    told = [Condition(steps=torch.full((3,), n)) for n in (4.0, 7.0)]
    zero, random = with_step_condition(teacher, 0), with_step_condition(teacher, 0, random_start=True)
    assert all(torch.equal(zero(x, sigma, condition), teacher(x, sigma)) for condition in told)
    assert not torch.allclose(random(x, sigma, told[0]), teacher(x, sigma))
    assert not torch.allclose(random(x, sigma, told[0]), random(x, sigma, told[1]))
    assert torch.equal(random(x, sigma), teacher(x, sigma))
    other_seed = with_step_condition(teacher, 1, random_start=True)
    assert not torch.allclose(other_seed(x, sigma, told[0]), random(x, sigma, told[0]))


def test_the_step_condition_is_trained_and_told():
    p = parameters(num_steps=[4, 5], step_condition="zero", rounds=6)
    student = run(tiny_denoiser(), p).modules["student"].eval()
    x, sigma = torch.randn(2, 1, 4, 4), torch.tensor(1.0)
    outputs = [student(x, sigma, Condition(steps=torch.full((2,), n))) for n in (4.0, 5.0)]
    assert not torch.equal(*outputs)


# --- the second stage -----------------------------------------------------------------------------------------------------------------


def first_stage_student():
    p = parameters(num_steps=[7, 4], step_condition="zero", rounds=6)
    return run(tiny_denoiser(), p).modules["student"].eval().requires_grad_(False)


SECOND = {"num_steps": [3], "substeps": 3, "solver": "euler", "teacher_afs": True}


def test_the_second_stages_teacher_is_the_first_stages_sampler():
    """Targets are the states of the student's own Euler run with 7 time stamps, AFS and its step condition (SFD, second stage)."""
    first, p = first_stage_student(), parameters(**SECOND)
    piece = Pool(first, p).piece(3, 0)
    assert teacher_evaluations(p, 3) == 5 and p.num_steps == [3]
    sampler = Sampler("euler", 7, p.schedule, afs=True, step_condition=True)
    noise = piece.states[0] / 80
    with torch.no_grad():
        torch.testing.assert_close(piece.states[2], sampler(first, noise), rtol=1e-5, atol=1e-5)
        ignorant = Sampler("euler", 7, p.schedule, afs=True, step_condition=False)(first, noise)
    assert not torch.allclose(piece.states[2], ignorant, rtol=1e-5, atol=1e-5)
    assert student_times(p, 3).tolist() == pytest.approx([80, 3.107122, 0.006], abs=1e-6)


def test_the_second_stage_trains_the_one_evaluation_at_the_middle_time():
    first, p, seen = first_stage_student(), parameters(**SECOND), []
    pool = Pool(first, p)
    steps = list(walk(first, pool.piece(3, 0), p))
    assert [index for index, _, _ in steps] == [1]
    state = distil(pool, 0, lambda student: seen.append(student) or 0.0)
    assert state.updates == 5 and state.rows[0]["nfe"] == 1
    assert tensors_digest(seen[0].state_dict()) == tensors_digest(first.state_dict())  # it starts as the first stage's student
    losses = [row["loss_student"] for row in state.rows[1:]]
    assert all(loss > 0 for loss in losses)


def test_a_one_evaluation_student_is_the_one_step_generator_that_score_distillation_starts_from(tmp_path):
    """Folded into plain biases, D(sigma_init z, sigma_init) at its own noise level is its sample, up to the last step's 0.2 %."""
    first = first_stage_student()
    plain = at_step_condition(first, 3)
    assert plain.configuration == tiny_denoiser().configuration
    x, sigma = torch.randn(5, 1, 4, 4), torch.tensor(3.107122)
    told = first(3.1 * x, sigma, Condition(steps=torch.full((5,), 3.0)))
    torch.testing.assert_close(plain(3.1 * x, sigma), told, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(plain(3.1 * x, sigma), first(3.1 * x, sigma), rtol=1e-5, atol=1e-6)
    few = Sampler("euler", 3, afs=True, step_condition=True)(first, x)
    one = Sampler(sigma_init=3.107122)(plain, x)
    assert (few - one).norm() < 0.01 * few.norm() + 0.01 * x.norm()
    save_denoiser(tmp_path / "plain.safetensors", plain)
    assert tensors_digest(load_denoiser(tmp_path / "plain.safetensors").state_dict()) == tensors_digest(plain.state_dict())
    assert tensors_digest(at_step_condition(plain, 5).state_dict()) == tensors_digest(plain.state_dict())


# --- what is refused ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"substeps": 0}, r"substeps = 0: should be greater than or equal to 1"),
        ({"num_steps": [2]}, r"num_steps \[2\]: at least 3 time stamps"),
        ({"num_steps": [1], "afs": False}, r"num_steps.0 = 1: should be greater than or equal to 2"),
        ({"num_steps": [4, 2], "step_condition": "zero"}, r"num_steps \[2\]: at least 3 time stamps"),
        ({"num_steps": []}, r"num_steps = \[\]"),
        ({"schedule": {"t_min": 2.0, "t_max": 1.0}}, r"t_min = 2.0 must be below t_max = 1.0"),
        ({"num_steps": [4, 5]}, r"several num_steps need a step_condition"),
        ({"solver": "rk45"}, r"solver = 'rk45': should be 'euler', 'heun'"),
        ({"loss": "l1+lpips"}, r"go together"),
        ({"teacher_afs": True, "inputs": "data"}, r"teacher_afs needs inputs = trajectory"),
    ],
)
def test_bad_parameters_are_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        parameters(**changes)


def test_solver_names_of_the_parameters_are_those_of_the_solvers():
    with pytest.raises(UserError) as error:
        parameters(solver="none")
    assert all(f"'{name}'" in str(error.value) for name in SOLVERS)
    assert str(error.value).count("'") == 2 * len(SOLVERS) + 2


def test_analytical_step_makes_no_evaluation_in_the_walk():
    piece, p = Piece(3, 0, torch.ones(3, 1, 1, 2, 2)), parameters(num_steps=[3])
    student = GaussianDenoiser(0.0, 0.25)
    (index, predicted, _), *rest = walk(student, piece, p)
    t = student_times(p, 3)
    expected = SOLVERS["euler"](student, next(SOLVERS["euler"](AnalyticalFirstStep(student), piece.states[0], t[:2])), t[1:])
    assert index == 1 and not rest and torch.equal(predicted, next(expected))


def test_disback_from_sfds_one_evaluation_student_end_to_end():
    """sfd-disback: first stage, second stage, its student as a plain one-step generator, recording from it, and the walk back."""
    teacher, p = tiny_denoiser(), parameters(**SECOND)
    first = first_stage_student()
    second = distil(Pool(first, p), 0, lambda student: 0.0).modules["student"].eval().requires_grad_(False)
    start = at_step_condition(second, 3)
    adam = {"lr": 1e-3, "betas": [0.0, 0.999]}
    recording = {"steps": 6, "nodes": 2, "optimiser": adam, "evaluation_batch": 16}
    values = {"sigma_init": 3.107122, "updates": 4, "batch": 4, "student": adam, "fake": adam}
    q = validate(ScoreDistillation, values | {"recording": recording}, "method")
    data = Labelled(torch.zeros(16, 1, 4, 4))
    path, _ = record(Origin(teacher, start, 99), q, data, 0)
    plain, _ = record(Origin(teacher), q, data, 0)
    assert path.table["loss_student"][0] != plain.table["loss_student"][0]  # the teacher's loss on other samples
    assert path.start is start and path.start_cost == 99 and plain.start is None
    seen = []
    state = score_distil(path, q, 0, lambda student: seen.append(tensors_digest(student.state_dict())) or 0.0)
    assert seen[0] == tensors_digest(start.state_dict()) and [row["node"] for row in state.rows] == [1, 0]
