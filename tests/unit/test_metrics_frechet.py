"""The Frechet distance against its closed forms and against three other implementations."""

import cleanfid.fid
import numpy as np
import pytest
import scipy
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_statistics_to_metric

from backtrail.errors import UserError
from backtrail.metrics import products
from backtrail.metrics.frechet import factor, frechet_distance, moments


def draw(n, d, seed, spread=1.0):
    """Correlated features float64 [n, d] with a mean that is not zero."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64) * torch.linspace(spread, 0.1, d, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + torch.randn(d, generator=g, dtype=torch.float64)


def with_exact_moments(n, mean, std, seed):
    """Features [n, d] whose sample mean is `mean` and whose unbiased sample covariance is diag(std^2), to rounding."""
    x = draw(n, len(mean), seed)
    x = torch.linalg.qr(x - x.mean(0)).Q * (n - 1) ** 0.5
    return x * std + mean


def reference_of(features):
    mean, covariance = moments(features)
    return mean, factor(covariance)


def by_scipy(x, y):
    s, r = torch.cov(x.T).numpy(), torch.cov(y.T).numpy()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(r) - 2 * np.trace(scipy.linalg.sqrtm(s @ r)).real)


def test_moments_are_mean_and_unbiased_covariance():
    x = draw(9000, 5, 0)  # more rows than are taken at a time
    mean, covariance = moments(x)
    assert torch.allclose(mean, x.mean(0), rtol=1e-13) and torch.allclose(covariance, torch.cov(x.T), rtol=1e-11)


def test_float32_features_keep_their_digits_under_a_large_mean():
    x = draw(500, 4, 1).float() + 1000
    assert torch.allclose(moments(x)[1], torch.cov(x.double().T), rtol=1e-10)


@pytest.mark.parametrize("n", [50, 8])  # more and fewer samples than features
def test_closed_form_of_gaussians_with_diagonal_covariance(n):
    d = 20 if n > 20 else 6
    mean, std = torch.linspace(-1, 2, d).double(), torch.linspace(0.5, 3, d).double()
    mean_r, std_r = torch.linspace(1, 0, d).double(), torch.linspace(2, 0.1, d).double()
    samples, reference = with_exact_moments(n, mean, std, 2), with_exact_moments(200, mean_r, std_r, 3)
    expected = ((mean - mean_r) ** 2).sum() + ((std - std_r) ** 2).sum()
    assert frechet_distance(samples, *reference_of(reference)) == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("n", [40, 300])
def test_both_ways_agree_with_scipy(n):
    x, y = draw(n, 64, 4), draw(500, 64, 5)
    assert frechet_distance(x, *reference_of(y)) == pytest.approx(by_scipy(x, y), rel=1e-6 if n < 64 else 1e-10)


@pytest.mark.parametrize("n", [40, 300])
def test_products_in_blocks_are_the_whole_ones(monkeypatch, n):
    """Blocks that do not divide the sizes, and a reference of lower rank than there are features."""
    x, y = draw(n, 64, 22), draw(50, 64, 23)
    expected = frechet_distance(x, *reference_of(y))
    monkeypatch.setattr(products, "BLOCK", 12)
    assert frechet_distance(x, *reference_of(y)) == pytest.approx(expected, rel=1e-11)
    _, lower = reference_of(y)
    covariance, left = torch.cov(x.T), draw(7, 64, 24)
    whole = (lower.T @ covariance @ lower).tril()
    assert torch.allclose(products.lower_congruence(lower, covariance).tril(), whole, rtol=1e-10, atol=1e-10 * whole.abs().max().item())
    assert torch.allclose(products.lower_product(left, lower), left @ lower, rtol=1e-10, atol=1e-12)


def test_the_factor_is_lower_trapezoidal_and_another_is_refused():
    mean, covariance = moments(draw(30, 48, 25))
    lower = factor(covariance)
    assert lower.shape == (48, 29) and not lower.triu(1).any()
    assert torch.allclose(lower @ lower.T, covariance, rtol=1e-10, atol=1e-12 * covariance.abs().max().item())
    turned = lower @ torch.linalg.qr(draw(29, 29, 26)).Q  # a factor too, and the products would leave half of it out
    with pytest.raises(UserError, match="should be lower trapezoidal"):
        frechet_distance(draw(60, 48, 27), mean, turned)


def test_agrees_with_torch_fidelity():
    x, y = draw(300, 48, 6), draw(400, 48, 7)
    statistics = [{"mu": z.mean(0).numpy(), "sigma": np.cov(z.numpy(), rowvar=False)} for z in (x, y)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(x, *reference_of(y)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.skipif(
    tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 18), reason="clean-fid's function calls sqrtm(disp=), gone in SciPy 1.18"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_agrees_with_clean_fid():
    x, y = draw(300, 48, 8).numpy(), draw(400, 48, 9).numpy()
    expected = cleanfid.fid.fid_from_feats(x, y)
    assert frechet_distance(torch.from_numpy(x), *reference_of(torch.from_numpy(y))) == pytest.approx(expected, rel=1e-9)


def test_singular_covariances_cost_no_digits():
    """Both sets lie in planes of few dimensions of a space of 60; the closed form is that of the planes."""
    basis = torch.linalg.qr(draw(60, 60, 10)).Q
    std, std_r = torch.tensor([1.0, 2.0, 3.0, 0.0]).double(), torch.tensor([2.0, 0.5, 0.0, 1.0]).double()
    zero = torch.zeros(4).double()
    samples = with_exact_moments(100, zero, std, 11) @ basis[:4]
    reference = with_exact_moments(90, zero, std_r, 12) @ basis[:4]
    mean, f = reference_of(reference)
    assert f.shape == (60, 3)
    expected = (std**2 + std_r**2 - 2 * std * std_r).sum().item()
    assert frechet_distance(samples, mean, f) == pytest.approx(expected, rel=1e-7)
    few = with_exact_moments(6, zero[:2], std[:2], 13) @ basis[:2]  # 6 samples, reference of full rank 60
    full = reference_of(with_exact_moments(100, torch.zeros(60).double(), torch.ones(60).double(), 14) @ basis)
    assert frechet_distance(few, *full) == pytest.approx(1.0 + 4.0 + 60 - 2 * (1 + 2), rel=1e-8)


def test_zero_for_the_same_set_and_invariant_under_rotation_and_shift():
    x, y = draw(200, 16, 15), draw(300, 16, 16)
    assert abs(frechet_distance(x, *reference_of(x))) < 1e-9 * moments(x)[1].trace()
    turn = torch.linalg.qr(draw(16, 16, 17)).Q
    turned = frechet_distance(x @ turn + 5, *reference_of(y @ turn + 5))
    assert turned == pytest.approx(frechet_distance(x, *reference_of(y)), rel=1e-10)
    assert frechet_distance(x, *reference_of(y)) == pytest.approx(frechet_distance(y, *reference_of(x)), rel=1e-10)


def test_what_cannot_be_measured_is_refused():
    mean, f = reference_of(draw(50, 8, 18))
    with pytest.raises(UserError, match="samples have 9 features and the reference statistics 8"):
        frechet_distance(draw(50, 9, 19), mean, f)
    with pytest.raises(UserError, match="at least 2 images; found 1"):
        frechet_distance(draw(1, 8, 20), mean, f)
    for n in (4, 50):
        broken = draw(n, 8, 21)
        broken[2, 3] = torch.nan
        with pytest.raises(UserError, match="found NaN or infinity"):
            frechet_distance(broken, mean, f)
