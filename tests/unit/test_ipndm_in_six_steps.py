"""Why iPNDM(4) gets worse with more evaluations where DEIS gets better: the weights of equal steps on a grid whose steps shrink."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial

from backtrail.data.dataset import to_uint8
from backtrail.metrics.features import extractor
from backtrail.metrics.frechet import factor, frechet_distance, moments
from backtrail.parameters.sampling import Schedule
from backtrail.sampling.sample import Sampler, sample
from backtrail.sampling.schedules import polynomial
from backtrail.sampling.solvers import ADAMS_BASHFORTH
from backtrail.teachers.imported import import_teacher

PUBLISHED = Path(__file__).parents[2] / "data/teachers/fashion-mnist"


def adams_bashforth(times: np.ndarray, step: int, order: int) -> list[float]:
    """The weights of a step for the times that it really has: integrals of the Lagrange polynomials through the last `order` of them."""
    past, end = times[step::-1][:order], times[step + 1]
    weights = []
    for k in range(len(past)):
        basis = Polynomial([1.0])
        for m in set(range(len(past))) - {k}:
            basis *= Polynomial([-past[m], 1.0]) / (past[k] - past[m])
        integral = basis.integ()
        weights.append((integral(end) - integral(past[0])) / (end - past[0]))
    return weights


def test_the_weights_of_equal_steps_are_far_from_those_of_six_time_stamps() -> None:
    equal = np.linspace(80.0, 0.0, 6)
    np.testing.assert_allclose(adams_bashforth(equal, 3, 4), ADAMS_BASHFORTH[4], atol=1e-12)
    grid = polynomial(6, 0.002, 80.0).numpy()
    np.testing.assert_allclose(adams_bashforth(grid, 2, 3), [1.170, -0.183, 0.013], atol=1e-3)
    np.testing.assert_allclose(adams_bashforth(grid, 3, 4), [1.118, -0.125, 0.008, 0.0], atol=1e-3)
    np.testing.assert_allclose(ADAMS_BASHFORTH[4], [2.292, -2.458, 1.542, -0.375], atol=1e-3)


@pytest.mark.slow
def test_that_is_what_puts_it_out_of_order_with_the_published_teacher() -> None:
    """512 images; images come nearer to the converged ones pixel by pixel, and their features do not.

    Measured at NFE 2, 3, 5, Frechet distance to converged images: iPNDM(4) 500, 272, 308; iPNDM(2) 500, 251, 126; DEIS(3) 476, 269, 129;
    root mean square of iPNDM(4)'s pixels: .150, .180, .090.
    """
    torch.set_num_threads(1)
    teacher = import_teacher("own-backtrail", PUBLISHED)
    measured = extractor("efficientnet-lite0")

    def drawn(solver: str, num_steps: int) -> torch.Tensor:
        schedule = Schedule(t_min=0.002)
        return sample(teacher, Sampler(solver, num_steps, schedule), range(512), teacher.image_shape, teacher.conditions)

    converged = drawn("heun", 40)
    mean, covariance = moments(measured.features(to_uint8(converged)))
    root, distances, errors = factor(covariance), {}, {}
    for solver in ("ipndm-2", "ipndm-4", "deis-3"):
        sets = [drawn(solver, num_steps) for num_steps in (3, 4, 6)]
        distances[solver] = [frechet_distance(measured.features(to_uint8(x)), mean, root) for x in sets]
        errors[solver] = [(x - converged).square().mean().sqrt().item() for x in sets]
    for solver in ("ipndm-2", "deis-3"):
        assert distances[solver] == sorted(distances[solver], reverse=True)
    assert distances["ipndm-4"][2] > 1.05 * distances["ipndm-4"][1] and distances["ipndm-4"][2] > 2 * distances["deis-3"][2]
    assert errors["ipndm-4"][2] < 0.6 * errors["ipndm-4"][1]
