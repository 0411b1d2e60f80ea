"""Noise schedules against the golden values of the SFD code, their published laws, and properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backtrail.errors import UserError
from backtrail.parameters.base import validate
from backtrail.parameters.sampling import Schedule
from backtrail.sampling.schedules import SCHEDULES, discrete, logsnr, polynomial, schedule, time_uniform, vp_betas, vp_sigma, vp_tau

POLYNOMIAL = {
    3: [80, 3.107122, 0.006],
    4: [80, 10.929297, 0.669886, 0.006],
    5: [80, 19.003388, 3.107122, 0.268292, 0.006],
    6: [80, 25.963283, 6.787685, 1.289125, 0.145405, 0.006],
    7: [80, 31.729821, 10.929297, 3.107122, 0.669886, 0.093615, 0.006],
}
DISCRETE = {
    4: [14.6146, 2.9574, 0.9543, 0.1],
    5: [14.6146, 4.1316, 1.6438, 0.7155, 0.1],
    6: [14.6146, 5.1409, 2.3140, 1.1868, 0.5911, 0.1],
    7: [14.6146, 5.9983, 2.9574, 1.6438, 0.9543, 0.5134, 0.1],
}


@pytest.mark.parametrize("n", POLYNOMIAL)
def test_polynomial_has_the_released_values(n):
    assert polynomial(n, 0.006, 80).tolist() == pytest.approx(POLYNOMIAL[n], abs=5e-7)


def test_polynomial_with_edms_smallest_time():
    assert polynomial(4, 0.002, 80).tolist() == pytest.approx([80, 9.723201, 0.469979, 0.002], abs=5e-7)


@pytest.mark.parametrize("n", DISCRETE)
def test_discrete_has_the_released_values_of_stable_diffusion(n):
    assert discrete(n, 0.1, 14.614641).tolist() == pytest.approx(DISCRETE[n], abs=5.1e-5)


def released_discrete(n: int, t_min: float, t_max: float, rho: float) -> list[float]:
    """The SFD code's formula, by numpy: tau(t_max) stands without the root."""
    log_alpha = np.log(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)) / 2
    index = np.arange(1, 1001) / 1000
    tau_min, tau_max = (np.interp(0.5 * math.log1p(t**2), -log_alpha, index) for t in (t_min, t_max))
    tau = (tau_max + np.linspace(0, 1, n) * (tau_min ** (1 / rho) - tau_max)) ** rho
    return np.sqrt(np.exp(-2 * np.interp(tau, index, log_alpha)) - 1).tolist()


def test_discrete_begins_at_t_max_whatever_rho_where_the_released_code_does_not():
    """The same from the model's own largest level on, or with rho 1; else the released first time is not the t_max that was asked for."""
    assert discrete(5, 0.1, 14.614641, rho=2.0).tolist() == pytest.approx(released_discrete(5, 0.1, 14.614641, 2.0), rel=1e-6)
    assert discrete(5, 0.1, 10.0).tolist() == pytest.approx(released_discrete(5, 0.1, 10.0, 1.0), rel=1e-12)
    assert discrete(5, 0.1, 10.0, rho=2.0).tolist() == pytest.approx([10, 2.012148, 0.795705, 0.349480, 0.1], abs=1e-6)
    assert released_discrete(5, 0.1, 10.0, 2.0)[0] == pytest.approx(7.234904, abs=1e-6)  # 28 % below


def test_logsnr_is_geometric():
    times = logsnr(9, 0.002, 80)
    assert (times[1:] / times[:-1]).tolist() == pytest.approx([(0.002 / 80) ** (1 / 8)] * 8, rel=1e-13)


def test_time_uniform_is_quadratic_in_vp_time_and_matches_edms_constants():
    # EDM's VP column: beta_d = 19.9, beta_min = 0.1 belong to sigma(0.001) = 0.0100... and sigma(1) = 152...
    tau = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    low, high = vp_sigma(tau, 19.9, 0.1).tolist()
    assert vp_betas(low, high) == pytest.approx((19.9, 0.1), rel=1e-10)
    betas = vp_betas(0.002, 80.0)
    roots = vp_tau(time_uniform(6, 0.002, 80.0, rho=2.0), *betas).sqrt()
    assert roots.diff().tolist() == pytest.approx([(math.sqrt(1e-3) - 1) / 5] * 5, rel=1e-9)


grids = {
    "kind": st.sampled_from(sorted(SCHEDULES)),
    "n": st.integers(2, 60),
    "t_min": st.floats(1e-3, 0.02),
    "t_max": st.floats(10.0, 150.0),
    "rho": st.floats(1.0, 9.0),
}


@given(**grids)
def test_every_schedule_descends_strictly_between_its_exact_end_points(kind, n, t_min, t_max, rho):
    times = schedule(kind, n, t_min, t_max, rho)
    assert times.dtype == torch.float64 and len(times) == n
    assert (times[0].item(), times[-1].item()) == (t_max, t_min)
    assert bool((times.diff() < 0).all())


@given(**grids, k=st.integers(1, 6))
def test_every_kth_time_of_the_teacher_is_the_students(kind, n, t_min, t_max, rho, k):
    student = schedule(kind, n, t_min, t_max, rho)
    teacher = schedule(kind, k * (n - 1) + 1, t_min, t_max, rho)
    torch.testing.assert_close(teacher[::k], student, rtol=1e-13, atol=0)  # a vectorised power may round the last bit by its place


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(("n", "t_min", "t_max"), [(1, 0.1, 1.0), (0, 0.1, 1.0), (4, 1.0, 1.0), (4, 2.0, 1.0), (4, 0.0, 1.0)])
def test_an_impossible_grid_is_refused(kind, n, t_min, t_max):
    with pytest.raises(UserError, match="a schedule needs"):
        schedule(kind, n, t_min, t_max, 7.0)


def test_ends_that_no_vp_process_joins_are_refused():
    with pytest.raises(UserError, match=r"time_uniform does not descend between t_max = 1 and t_min = 0.125"):
        schedule("time_uniform", 3, 0.125, 1.0, 1.0)


def test_parameters_refuse_t_min_not_below_t_max():
    with pytest.raises(UserError, match=r"t_min = 80.0 must be below t_max = 80.0"):
        validate(Schedule, {"t_min": 80.0}, "schedule")
