"""Laws of the noise level, by their golden quantiles, and the loss that they weight."""

import numpy as np
import pytest
import torch

from backtrail.errors import UserError
from backtrail.parameters.base import validate
from backtrail.parameters.training import Adam, KarrasGrid, LogNormal, UniformTime
from backtrail.randomness import Draw
from backtrail.sampling.schedules import polynomial, vp_betas, vp_tau
from backtrail.training.noise import draw_sigma, edm_loss, per_value
from backtrail.training.state import adam, optimiser_step

N = 400_000


def quantiles(law, shares):
    return np.quantile(draw_sigma(law, N, Draw(0, "test", 0)).double().numpy(), shares)


def test_log_normal_has_diff_instructs_quantiles():
    found = quantiles(LogNormal(mean=-1.2, std=1.2), [0.01, 0.05, 0.5, 0.95, 0.99])
    assert found == pytest.approx([0.018, 0.042, 0.30, 2.17, 4.94], rel=0.03)
    draws = draw_sigma(LogNormal(mean=-1.2, std=1.2), N, Draw(0, "test", 0)).double().log()
    assert (draws.mean().item(), draws.std().item()) == pytest.approx((-1.2, 1.2), abs=0.006)


def test_karras_grid_has_dmd2s_quantiles():
    low, middle, high = quantiles(KarrasGrid(first=20, last=980), [0.05, 0.5, 0.95])
    # Quoted from a sample; the exact median is 2.51.
    assert (low, middle, high) == (pytest.approx(0.009, abs=5e-4), pytest.approx(2.55, abs=0.08), pytest.approx(54.9, abs=0.5))
    exact = polynomial(1000, 0.002, 80.0)[20:981].flip(0).numpy()
    assert (low, middle, high) == pytest.approx(np.quantile(exact, [0.05, 0.5, 0.95]), rel=0.02)


def test_karras_grid_draws_every_index_it_names_and_no_other():
    drawn = draw_sigma(KarrasGrid(n=10, first=2, last=5), 2000, Draw(0, "test", 0)).unique()
    ramp = np.arange(10) / 9
    grid = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert drawn.tolist() == pytest.approx(sorted(grid[2:6]), rel=1e-6)


def test_uniform_time_is_uniform_in_the_vp_process():
    tau = vp_tau(draw_sigma(UniformTime(low=0.1, high=0.7), N, Draw(0, "test", 0)).double(), *vp_betas(0.002, 80.0)).numpy()
    assert np.quantile(tau, [0.0, 0.25, 0.5, 0.75, 1.0]) == pytest.approx([0.1, 0.25, 0.4, 0.55, 0.7], abs=0.002)


def test_draws_are_a_function_of_seed_purpose_and_step():
    law = LogNormal()
    assert torch.equal(draw_sigma(law, 8, Draw(1, "a", 2)), draw_sigma(law, 8, Draw(1, "a", 2)))
    others = [draw_sigma(law, 8, Draw(*place)) for place in ((1, "a", 2), (2, "a", 2), (1, "b", 2), (1, "a", 3))]
    assert len({tuple(draw.tolist()) for draw in others}) == 4


def test_edm_loss_has_expectation_one_for_the_net_that_knows_nothing():
    """With F = 0 the loss is weight x c_out^2 x the net's target variance, which EDM's preconditioning makes one at every noise level."""
    x0 = 0.5 * torch.randn(200_000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(200_000, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for level in (0.01, 0.5, 20.0):
        sigma = torch.full((200_000,), level, dtype=torch.float64)
        c_skip = 0.25 / (level**2 + 0.25)
        assert edm_loss(c_skip * (x0 + level * noise), x0, sigma, 0.5).item() == pytest.approx(1.0, abs=0.01)


def test_the_loss_sums_over_an_image_so_that_adams_eps_acts_as_in_the_released_code():
    """A gradient of 1.25e-7 a weight and eps 1e-8: the first step is .926 of lr. As a mean over d = 3,072 values it would be .0041."""
    module, x0, sigma = torch.nn.ParameterDict({"d": torch.full((1, 3, 32, 32), 1.25e-8)}), torch.zeros(2, 3, 32, 32), torch.ones(2)
    # The weight at sigma 1 and sigma_data 0.5 is 5: the gradient is 2 x 5 x 1.25e-8 per weight, of both images together.
    loss = edm_loss(module["d"].expand(2, -1, -1, -1), x0, sigma, 0.5)
    assert loss.item() == pytest.approx(3072 * 5 * 1.25e-8**2, rel=1e-5)
    assert per_value(loss, x0).item() == pytest.approx(5 * 1.25e-8**2, rel=1e-5)
    loss.backward()
    torch.testing.assert_close(module["d"].grad, torch.full_like(x0[:1], 1.25e-7))
    before = module["d"].detach().clone()
    p = Adam(lr=1e-3, betas=(0.0, 0.999), eps=1e-8)
    optimiser_step(adam(module, p), p, 0)
    torch.testing.assert_close(before - module["d"].detach(), torch.full_like(before, 1e-3 * 1.25e-7 / (1.25e-7 + 1e-8)))


@pytest.mark.parametrize(
    ("model", "values", "sentence"),
    [
        (KarrasGrid, {"first": 5, "last": 4}, "first <= last < n"),
        (KarrasGrid, {"last": 1000}, "first <= last < n"),
        (KarrasGrid, {"sigma_min": 90.0}, "sigma_min = 90.0 must be below"),
        (UniformTime, {"low": 0.9, "high": 0.2}, "low = 0.9 must be below high = 0.2"),
        (LogNormal, {"std": 0.0}, "should be greater than or equal to 0.000001"),
    ],
)
def test_impossible_laws_are_refused(model, values, sentence):
    with pytest.raises(UserError, match=sentence):
        validate(model, values, "noise")
