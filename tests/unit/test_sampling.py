"""Solvers: golden values of the SFD code, order of convergence, an independent implementation, and images that depend on their seed
alone."""

import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrail.conditions import Condition, Labels, image_labels
from backtrail.denoiser import EDMDenoiser, Guided
from backtrail.errors import UserError
from backtrail.nets.preconditioning import IDDPMDenoiser, VEDenoiser, VPDenoiser, noise_levels
from backtrail.parameters.base import validate
from backtrail.parameters.sampling import Schedule, TeacherSampler
from backtrail.sampling.sample import CHUNK, Sampler, sample
from backtrail.sampling.schedules import logsnr, polynomial, schedule
from backtrail.sampling.solvers import SOLVERS, AnalyticalFirstStep, Thresholded, dpm_solver_pp
from unit.oracles import GaussianDenoiser, MixtureDenoiser, gaussian_ode, reference_ode, tiny_denoiser

# Data ~ N(0, 0.25), x = 40 at t = 80, polynomial rho 7 to 0.006; columns: n = 4, 13, 25 and n = 4 with the analytical first step.
GOLDEN = {
    "euler": (0.1256894673, 0.1995586006, 0.2233677231, 0.1257204821),
    "dpmpp-1m": (0.1256894673, 0.1995586006, 0.2233677231, 0.1257204821),
    "heun": (0.8230904124, 0.2762390614, 0.2560460737, 0.8225545730),
    "dpm-2": (0.4406523381, 0.2649102767, 0.2534883706, 0.4404671551),
    "ipndm-2": (0.1815384458, 0.2390647391, 0.2471526749, 0.1815500325),
    "ipndm-3": (0.2264287880, 0.2541028839, 0.2517397606, 0.2266853786),
    "ipndm-4": (0.2264287880, 0.2593506004, 0.2522243207, 0.2266853786),
    "dpmpp-2m": (0.1280477427, 0.2660048887, 0.2563645229, 0.1277055509),
    "dpmpp-3m": (0.1280477427, 0.2914486481, 0.2507342138, 0.1277055509),
    "dpmpp-2m-eps": (0.1280477427, 0.2435525121, 0.2486628171, 0.1277055509),
    "dpmpp-3m-eps": (0.1280477427, 0.2504194294, 0.2498320394, 0.1277055509),
    "dpmpp-3m-full": (0.4151955220, 0.2635809777, 0.2500675748, 0.4168620720),
}


def scalar(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def end(solver, denoiser, x, times):
    *_, last = SOLVERS[solver](denoiser, x, times)
    return last


@pytest.mark.parametrize("solver", GOLDEN)
def test_golden_values(solver):
    denoiser = GaussianDenoiser(0.0, 0.25)
    found = [end(solver, denoiser, scalar(40.0), polynomial(n, 0.006, 80)).item() for n in (4, 13, 25)]
    found.append(end(solver, AnalyticalFirstStep(denoiser), scalar(40.0), polynomial(4, 0.006, 80)).item())
    assert found == pytest.approx(GOLDEN[solver], abs=1e-8)


def test_gaussian_ode_has_the_golden_solution_and_scipy_agrees():
    exact = gaussian_ode(scalar(40.0), 80, 0.006, 0.0, 0.25)
    assert exact.item() == pytest.approx(0.2500131163, abs=1e-10)
    assert reference_ode(GaussianDenoiser(0.0, 0.25), scalar(40.0), 80, 0.006).item() == pytest.approx(exact.item(), abs=1e-10)


def test_the_denoiser_of_gaussian_data_has_its_closed_form_score():
    x, t = torch.linspace(-3, 3, 7, dtype=torch.float64).reshape(-1, 1, 1, 1), torch.tensor(0.7, dtype=torch.float64)
    denoised = GaussianDenoiser(0.3, 0.25)(x, t)
    # The score of N(0.3, 0.25 + t^2) is -(x - 0.3) / (0.25 + t^2).
    expected = -(x - 0.3) / (0.25 + 0.49)
    torch.testing.assert_close((denoised - x) / t**2, expected, rtol=0, atol=1e-14)


def test_score_of_a_mixture_is_the_gradient_of_its_log_density():
    means, weights = torch.tensor([[0.7, 0.0], [-0.2, 0.5]]).double(), torch.tensor([0.3, 0.7]).double()
    x = torch.randn(5, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    variance = 0.2**2 + 0.6**2
    squared = (x.flatten(1)[:, None] - means).square().sum(-1)
    log_density = torch.logsumexp(weights.log() - squared / (2 * variance), 1)
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    sigma = torch.tensor(0.6, dtype=torch.float64)
    denoised = MixtureDenoiser(means, 0.2, weights)(x.detach(), sigma)
    torch.testing.assert_close((denoised - x.detach()) / sigma**2, gradient, rtol=0, atol=1e-12)


def test_edm_preconditioning_of_the_exact_net_is_the_exact_denoiser():
    # For N(0, sd^2) data the optimal D is c_skip x: the net is zero (EDM, Appendix B.6).
    zero = torch.nn.Module()
    zero.forward = lambda x, c_noise, condition: torch.zeros_like(x)
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    sigma = torch.tensor([0.01, 0.5, 3.0, 80.0], dtype=torch.float64)
    torch.testing.assert_close(EDMDenoiser(zero, 0.5)(x, sigma), GaussianDenoiser(0.0, 0.25)(x, sigma), rtol=1e-13, atol=0)


T_MIN, T_MAX = 0.05, 20.0
SMOOTH = {"polynomial": lambda n: polynomial(n, T_MIN, T_MAX), "logsnr": lambda n: logsnr(n, T_MIN, T_MAX)}


def graded(times: torch.Tensor) -> torch.Tensor:
    """Steps that double from h^2.5 to h in front: a multistep method starts with low orders, whose error would otherwise stay."""
    u = -times.log()
    h = (u[1] - u[0]).item()
    ramp = u[0] + h * 2.0 ** torch.arange(-math.ceil(1.5 * math.log2(1 / h)), 0, dtype=torch.float64)
    return torch.exp(-torch.cat([u[:1], ramp, u[1:]]))


def jumping(n: int) -> torch.Tensor:
    """Steps in ln t that are long and short in turn: no refinement makes neighbours equal."""
    places = torch.cat([torch.zeros(1), torch.tensor([1.0, 2.0] * (n // 2)).cumsum(0)]).double()
    return T_MAX * (T_MIN / T_MAX) ** (places / places[-1])


def gaussian_problem(t_min=T_MIN):
    x = scalar(0.7 * T_MAX)
    return GaussianDenoiser(0.3, 0.25), x, gaussian_ode(x, T_MAX, t_min, 0.3, 0.25)


def mixture_problem(t_min=T_MIN):
    angles = torch.arange(3) * 2 * math.pi / 3
    means = 0.7 * torch.stack([angles.cos(), angles.sin()], 1)
    denoiser = MixtureDenoiser(means, 0.3, torch.tensor([0.5, 0.3, 0.2]))
    x = T_MAX * torch.randn(3, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return denoiser, x, reference_ode(denoiser, x, T_MAX, t_min)


def order_of(solver, problem, grid, counts) -> float:
    """Slope of ln error against ln step between two numbers of steps."""
    denoiser, x, exact = problem
    errors = [(end(solver, denoiser, x, grid(n)) - exact).norm().item() for n in counts]
    return math.log(errors[0] / errors[1]) / math.log((counts[1] - 1) / (counts[0] - 1))


PROBLEMS = {"gaussian": gaussian_problem, "mixture": mixture_problem}
ORDERS = {"euler": 1, "heun": 2, "dpm-2": 2, "dpmpp-1m": 1, "dpmpp-2m": 2, "dpmpp-2m-full": 2, "dpmpp-2m-eps": 2}
ORDERS |= {"deis-1": 1, "deis-2": 2, "ipndm-1": 1, "ipndm-2": 2}
# As released these are of second order (see `dpm_solver_pp`), and iPNDM beyond 2 is on grids that are not uniform in t.
ORDERS |= {"dpmpp-3m": 2, "dpmpp-3m-full": 2, "dpmpp-3m-eps": 2, "ipndm-3": 2, "ipndm-4": 2}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("grid", SMOOTH)
@pytest.mark.parametrize("solver", ORDERS)
def test_order_of_convergence(solver, grid, problem):
    assert order_of(solver, PROBLEMS[problem](), SMOOTH[grid], (193, 385)) == pytest.approx(ORDERS[solver], abs=0.1)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("grid", SMOOTH)
@pytest.mark.parametrize(("solver", "order"), [("dpmpp-3m-whole", 3), ("deis-3", 3), ("deis-4", 4)])
def test_order_of_convergence_beyond_two_with_a_graded_start(solver, order, grid, problem):
    counts = (513, 769) if solver == "dpmpp-3m-whole" else (257, 385)
    assert order_of(solver, PROBLEMS[problem](), lambda n: graded(SMOOTH[grid](n)), counts) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_has_its_full_order_on_a_grid_uniform_in_t(order, problem):
    uniform = lambda n: torch.linspace(T_MAX, 0.5, n, dtype=torch.float64)  # noqa: E731
    assert order_of(f"ipndm-{order}", PROBLEMS[problem](0.5), uniform, (2049, 3073)) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("solver", "order"), [("ipndm-2", 1), ("ipndm-3", 1), ("ipndm-4", 1), ("deis-2", 2), ("dpmpp-2m", 2)])
def test_where_steps_jump_constant_coefficients_fall_to_order_one(solver, order):
    assert order_of(solver, mixture_problem(), jumping, (257, 513)) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("solver", "order"), [("dpmpp-2m-full", 2), ("dpmpp-3m-full", 3)])
def test_dpm_solver_pp_agrees_with_diffusers(solver, order):
    check_with_diffusers(solver, EDMDPMSolverMultistepScheduler, solver_order=order, lower_order_final=False, euler_at_final=False)


def test_three_time_stamps_are_of_orders_one_and_two():
    """The released code lowers the order on the way down alone: two steps of order 3 are two steps of order 2 that does not end lower."""
    check_with_diffusers("dpmpp-3m", EDMDPMSolverMultistepScheduler, 3, solver_order=2, lower_order_final=False)
    denoiser, times = GaussianDenoiser(0.0, 0.25), polynomial(3, 0.006, 80)
    found, plain = (end(solver, denoiser, scalar(40.0), times).item() for solver in ("dpmpp-3m", "dpmpp-2m"))
    assert found == end("dpmpp-2m-full", denoiser, scalar(40.0), times).item() != pytest.approx(plain, abs=1e-3)


def test_three_time_stamps_in_the_noise_form_are_the_published_steps():
    """DPM-Solver multistep, written out for two steps: m is epsilon, phi1 = e^h - 1."""
    (t0, t1, t2), x0, denoiser = polynomial(3, 0.006, 80).tolist(), 40.0, GaussianDenoiser(0.0, 0.25)

    def noise(x, t):
        return (x - denoiser(scalar(x), torch.tensor(t, dtype=torch.float64)).item()) / t

    m0 = noise(x0, t0)
    x1 = x0 - t1 * (t0 / t1 - 1) * m0
    m1, phi1, r0 = noise(x1, t1), t1 / t2 - 1, math.log(t0 / t1) / math.log(t1 / t2)
    expected = x1 - t2 * phi1 * m1 - 0.5 * t2 * phi1 * (m1 - m0) / r0
    found = end("dpmpp-3m-eps", denoiser, scalar(x0), polynomial(3, 0.006, 80)).item()
    assert found == pytest.approx(expected, abs=1e-12) and found != pytest.approx(x1 - t2 * phi1 * m1, abs=1e-3)


def test_euler_agrees_with_diffusers():
    check_with_diffusers("euler", EDMEulerScheduler)


def check_with_diffusers(solver, scheduler_class, n=12, **options):
    """The same grid and the same exact denoiser; diffusers keeps sigma in float32 and adds a last step of no length, which is left out."""
    scheduler = scheduler_class(sigma_min=0.006, sigma_max=80.0, sigma_data=0.5, final_sigmas_type="sigma_min", **options)
    scheduler.set_timesteps(n)
    denoiser, x = GaussianDenoiser(0.2, 0.16), scalar(40.0)
    for t, sigma in zip(scheduler.timesteps[: n - 1], scheduler.sigmas.double()[: n - 1], strict=True):
        variance = sigma**2 + 0.25
        net_output = (denoiser(x, sigma) - 0.25 / variance * x) / (sigma * 0.5 / variance.sqrt())
        scheduler.scale_model_input(x, t)
        x = scheduler.step(net_output, t, x).prev_sample.double()
    torch.testing.assert_close(scheduler.sigmas.double()[:n], polynomial(n, 0.006, 80), rtol=1e-6, atol=0)
    found = end(solver, denoiser, scalar(40.0), scheduler.sigmas.double()[:n])
    assert x.item() == pytest.approx(found.item(), abs=1e-5)


def test_thresholding_agrees_with_diffusers():
    scheduler = DPMSolverMultistepScheduler(thresholding=True, dynamic_thresholding_ratio=0.995, sample_max_value=1e9)
    denoised = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(2)) * torch.tensor([0.1, 1.0, 3.0])[:, None, None, None]
    found = Thresholded(lambda *_: denoised)(denoised, torch.tensor(1.0))
    torch.testing.assert_close(found, scheduler._threshold_sample(denoised), rtol=1e-6, atol=0)
    assert torch.equal(found[0], denoised[0]) and found[2].abs().max() == 1


def test_a_sampler_thresholds_every_estimate_the_analytical_one_too():
    sampler = Sampler("dpmpp-1m", 3, afs=True, threshold=True)
    times, calls = sampler.times(), []

    def denoiser(x, sigma, condition):
        calls.append(sigma)
        return torch.full_like(x, 5.0)

    _, first, last = sampler.states(denoiser, torch.ones(1, 1, 2, 2, dtype=torch.float64))
    # All pixels are alike, so the quantile is the value itself: estimates above 1 become 1.
    (t0, t1, t2) = times.tolist()
    estimate = min(t0 * (1 - t0 / math.sqrt(1 + t0**2)), 1.0)
    assert first.flatten().tolist() == pytest.approx([t0 + (t1 - t0) * (t0 - estimate) / t0] * 4, rel=1e-12)
    assert last.flatten().tolist() == pytest.approx([first[0, 0, 0, 0].item() * t2 / t1 + (1 - t2 / t1)] * 4, rel=1e-12)
    assert len(calls) == 1


@pytest.mark.parametrize("solver", ["heun", "dpmpp-3m-eps", "ipndm-4"])
def test_thresholding_needs_a_solver_of_x0(solver):
    with pytest.raises(UserError, match=f"threshold goes with the solvers that predict x0 .*; found {solver}"):
        validate(TeacherSampler, {"solver": solver, "num_steps": [4], "threshold": True}, "sampler")


def test_the_grid_keeps_to_the_noise_levels_that_the_net_knows():
    """EDM's sampler cuts its range to the net's and rounds the times (arXiv 2206.00364, Table 1): VE 0.02 to 100, iDDPM the levels u_j."""
    asked = Schedule(t_min=0.002)
    assert Sampler("heun", 18, asked, within=EDMDenoiser(None, 0.5).noise_range).levels()[-1] == 0.002
    ve = Sampler("heun", 18, asked, within=VEDenoiser(None).noise_range)
    torch.testing.assert_close(ve.times(), polynomial(18, 0.02, 80), rtol=1e-15, atol=0)
    assert Sampler("heun", 18, Schedule(t_max=152.0), within=VEDenoiser(None).noise_range).levels()[0] == 100
    low, high = (math.sqrt(math.expm1(19.9 * t**2 / 2 + 0.1 * t)) for t in (1e-5, 1.0))
    assert Sampler("heun", 18, Schedule(t_min=1e-4, t_max=200), within=VPDenoiser(None).noise_range).levels()[::17] == [high, low]
    u = noise_levels(0.001, 0.008, 1000).double()
    iddpm = Sampler("heun", 18, asked, within=IDDPMDenoiser(None).noise_range).times()
    assert torch.isin(iddpm, u).all() and iddpm[-1] == u[999] > 0.002  # the smallest level that has a time step
    assert ((iddpm - polynomial(18, u[999].item(), 80)).abs() <= 0.5 * u.diff().abs()[:-1].max()).all()
    with pytest.raises(UserError, match="polynomial at the net's noise levels does not descend"):
        Sampler("heun", 400, Schedule(t_min=0.01, t_max=0.02), within=IDDPMDenoiser(None).noise_range).times()


@given(n=st.integers(2, 20), solver=st.sampled_from(sorted(SOLVERS)), mean=st.floats(-1, 1))
def test_the_answer_for_a_point_mass_is_the_point(n, solver, mean):
    # D is constant, x - D falls in proportion to t: every solver is exact, whatever its order and the grid.
    x = end(solver, GaussianDenoiser(mean, 0.0), scalar(40.0), polynomial(n, 0.006, 80))
    assert x.item() == pytest.approx(mean + (40 - mean) * 0.006 / 80, abs=1e-9)


def test_analytical_first_step_scales_noise_by_the_released_factors():
    factors = {31.729821: 0.396670, 25.963283: 0.324594, 19.003388: 0.237602, 10.929297: 0.136684, 3.107122: 0.038914}
    for t_next, factor in factors.items():
        times = torch.tensor([80.0, t_next], dtype=torch.float64)
        (x,) = SOLVERS["euler"](AnalyticalFirstStep(lambda *_: pytest.fail("the net was evaluated")), scalar(1.0), times)
        assert x.item() == pytest.approx(factor, abs=5e-7)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("afs", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_nfe_is_the_number_of_evaluations_made(solver, afs, guidance):
    calls = []

    def denoiser(x, sigma, condition):
        calls.append(sigma)
        return 0.5 * x

    sampler = Sampler(solver, 5, afs=afs, guidance=guidance)
    sample(denoiser, sampler, range(1), (1, 2, 2), Labels(3))
    assert len(calls) == sampler.nfe


def test_guidance_is_the_published_combination():
    denoiser = tiny_denoiser(n_classes=3)
    x, sigma, labels = torch.randn(4, 1, 4, 4), torch.tensor(1.5), torch.tensor([0, 1, 2, 0])
    conditional, null = (denoiser(x, sigma, Condition(labels=c)) for c in (labels, torch.full((4,), 3)))
    # eps~ = w eps(c) + (1 - w) eps(null), and eps = (x - D) / sigma.
    expected = 2.5 * (x - conditional) / sigma - 1.5 * (x - null) / sigma
    found = Guided(denoiser, 2.5, Labels(3).null)(x, sigma, Condition(labels=labels))
    torch.testing.assert_close((x - found) / sigma, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(Guided(denoiser, 1.0, Labels(3).null)(x, sigma, Condition(labels=labels)), conditional)
    assert not torch.allclose(conditional, null)


def test_guidance_without_classes_is_refused():
    with pytest.raises(UserError, match=r"guidance 2.0 needs a denoiser that was trained on classes"):
        sample(tiny_denoiser(), Sampler("euler", 4, guidance=2.0), range(1), (1, 4, 4))


@settings(max_examples=12)
@given(first=st.integers(0, 150), length=st.integers(1, 80), n_classes=st.sampled_from([0, 3]))
def test_image_i_is_the_same_for_every_range_that_holds_it(first, length, n_classes):
    denoiser = tiny_denoiser(n_classes=n_classes)
    sampler = Sampler("euler", 3, afs=True)
    images = sample(denoiser, sampler, range(first, first + length), (1, 4, 4), Labels(n_classes))
    whole = sample(denoiser, sampler, range(4 * CHUNK), (1, 4, 4), Labels(n_classes))
    assert torch.equal(images, whole[first : first + length])


def test_labels_are_uniform_and_a_function_of_the_image():
    labels = image_labels(range(3000), 10)
    assert torch.equal(labels[100:120], image_labels(range(100, 120), 10))
    counts = np.bincount(labels, minlength=10)
    assert counts.min() > 300 - 4 * math.sqrt(270) and counts.max() < 300 + 4 * math.sqrt(270)


@pytest.mark.parametrize(("num_steps", "afs"), [(1, False), (2, True), (1, True)])
def test_a_grid_that_leaves_no_evaluation_is_refused(num_steps, afs):
    with pytest.raises(UserError, match="leave no network evaluation"):
        Sampler("euler", num_steps, afs=afs).times()


def test_solvers_keep_single_precision_close_to_double():
    """Coefficients are computed in double precision: float32 costs float32's rounding and no more."""
    times = schedule("polynomial", 25, 0.006, 80.0, 7.0)
    x = 80 * torch.randn(64, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    denoiser = GaussianDenoiser(0.1, 0.25)
    for solver in SOLVERS:
        single, double = end(solver, denoiser, x, times), end(solver, denoiser, x.double(), times)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-5)


def test_a_step_condition_reaches_the_denoiser():
    seen = []
    sampler = Sampler("euler", 5, Schedule(), afs=True, step_condition=True)
    sampler(lambda x, sigma, condition: seen.append(condition.steps) or x, torch.zeros(3, 1, 1, 1))
    assert all(torch.equal(steps, torch.full((3,), 5.0)) for steps in seen) and len(seen) == 3


def test_dpm_solver_of_order_one_is_euler():
    x, times = scalar(40.0), polynomial(7, 0.006, 80)
    denoiser = MixtureDenoiser(torch.tensor([[0.5], [-0.3]]), 0.1)
    *_, pp = dpm_solver_pp(denoiser, x, times, order=1)
    assert pp.item() == pytest.approx(end("euler", denoiser, x, times).item(), abs=1e-12)
