"""VP, VE and iDDPM preconditioning against closed forms: Gaussian data, whose denoiser is known, and the definitions of the schedules."""

import math

import pytest
import torch
from torch import Tensor, nn

from backtrail.denoiser import Condition, EDMDenoiser
from backtrail.nets.preconditioning import IDDPMDenoiser, VEDenoiser, VPDenoiser, noise_levels

SIGMAS = torch.tensor([0.003, 0.05, 0.7, 11.0, 79.0], dtype=torch.float64)
DATA_STD = 0.6


class GaussianNet(nn.Module):
    """The best F for data ~ N(0, DATA_STD^2), told nothing but its inputs: `level` maps c_noise to sigma, `formula` to F."""

    def __init__(self, level, formula):
        super().__init__()
        self.level, self.formula = level, formula

    def forward(self, y: Tensor, c_noise: Tensor, condition: Condition | None) -> Tensor:
        return self.formula(y, self.level(c_noise)[:, None, None, None])


def noise_of_scaled_input(y: Tensor, sigma: Tensor) -> Tensor:
    """E[noise | x] = sigma x / (sigma^2 + std^2), with x = sqrt(sigma^2 + 1) y."""
    return sigma * (sigma**2 + 1).sqrt() * y / (sigma**2 + DATA_STD**2)


def vp_sigma(c_noise: Tensor) -> Tensor:
    t = c_noise / 999
    return (torch.exp(19.9 * t**2 / 2 + 0.1 * t) - 1).sqrt()


U = noise_levels(0.001, 0.008, 1000)
DENOISERS = {
    "vp": VPDenoiser(GaussianNet(vp_sigma, noise_of_scaled_input)),
    "ve": VEDenoiser(GaussianNet(lambda c: 2 * c.exp(), lambda x, s: -s * x / (s**2 + DATA_STD**2))),
    "edm": EDMDenoiser(GaussianNet(lambda c: (4 * c).exp(), lambda y, s: torch.zeros_like(y)), DATA_STD),
    "iddpm": IDDPMDenoiser(
        GaussianNet(lambda c: U[(999 - c).long()].double(), lambda y, s: torch.cat([noise_of_scaled_input(y, s), y + 99], 1))
    ),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_the_best_network_gives_the_posterior_mean(name):
    sigma = U[[999, 900, 500, 200, 30]].double() if name == "iddpm" else SIGMAS
    x = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = x * (DATA_STD**2 / (DATA_STD**2 + sigma**2))[:, None, None, None]
    assert torch.allclose(DENOISERS[name](x, sigma), expected, rtol=1e-6, atol=1e-9)
    assert DENOISERS[name](x.float(), sigma.float()).dtype == torch.float32


class Ones(nn.Module):
    def forward(self, y: Tensor, c_noise: Tensor, condition: Condition | None) -> Tensor:
        return torch.ones(y.shape[0], 2 * y.shape[1], *y.shape[2:]) if self.training else torch.ones_like(y)


@pytest.mark.parametrize("denoiser", [VPDenoiser(Ones()), VEDenoiser(Ones()), EDMDenoiser(Ones(), 0.5), IDDPMDenoiser(Ones())])
def test_without_noise_the_image_stays(denoiser):
    x = torch.randn(2, 1, 3, 3)
    denoiser.net.train(isinstance(denoiser, IDDPMDenoiser))
    for sigma in (1e-3, 1e-5, 1e-7):
        assert (denoiser(x, torch.tensor(sigma)) - x).abs().max() <= 1.01 * sigma + 3 * sigma**2 / 0.25 + 1e-6


def test_vp_time_inverts_the_schedule():
    denoiser = VPDenoiser(Ones(), beta_d=19.9, beta_min=0.1)
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    sigma = ((19.9 * t**2 / 2 + 0.1 * t).exp() - 1).sqrt()
    assert torch.allclose(denoiser.time(sigma), t, rtol=1e-10)


def test_iddpm_levels_have_the_closed_form_of_their_recursion():
    """Where no ratio is clipped the recursion telescopes to u_j^2 + 1 = a_M / a_j; only j = 0 is clipped, at C_1."""
    a = [math.sin(0.5 * math.pi * j / 1000 / 1.008) ** 2 for j in range(1001)]
    closed = torch.tensor([math.sqrt(a[1000] / a[j] - 1) for j in range(1, 1001)], dtype=torch.float64)
    assert torch.allclose(U[1:].double(), closed, rtol=1e-6, atol=1e-7)
    assert float(U[0]) == pytest.approx(math.sqrt((float(closed[0]) ** 2 + 1) / 0.001 - 1), rel=1e-6)


def test_iddpm_takes_the_nearest_level():
    seen = []

    class Spy(nn.Module):
        def forward(self, y, c_noise, condition):
            seen.append(c_noise)
            return torch.cat([y, y], 1)

    denoiser = IDDPMDenoiser(Spy())
    low, high = U[501], U[500]
    sigma = torch.stack([low, low + 0.4 * (high - low), low + 0.6 * (high - low), high, U[999], U[0]])
    denoiser(torch.zeros(6, 1, 2, 2), sigma)
    assert seen[0].tolist() == [498, 498, 499, 499, 0, 999]


def test_the_condition_reaches_the_network():
    class Spy(nn.Module):
        def forward(self, y, c_noise, condition):
            return y * condition.labels[:, None, None, None]

    x, labels = torch.ones(2, 1, 2, 2), torch.tensor([0, 3])
    for denoiser in (VPDenoiser(Spy()), VEDenoiser(Spy())):
        result = denoiser(x, torch.tensor(1.0), Condition(labels=labels))
        assert torch.equal(result[0], x[0]) and not torch.equal(result[1], x[1])
