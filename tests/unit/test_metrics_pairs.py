"""KID, precision, recall, density, coverage: against other implementations, brute force and what is known of equal distributions."""

import math

import cleanfid.fid
import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from backtrail.errors import UserError
from backtrail.metrics import pairs
from backtrail.metrics.pairs import Pairs, Side


def draw(n, d, seed, shift=0.0, scale=1.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + shift


def beside(samples, reference):
    return Pairs(Side(samples), Side(reference))


def kernel_distance(samples, reference):
    return beside(samples, reference).kernel_distance()


def test_kernel_distance_is_clean_fids_over_one_subset_that_holds_everything():
    x, y = draw(200, 32, 0), draw(200, 32, 1, shift=0.1)
    state = np.random.get_state()
    try:
        expected = cleanfid.fid.kernel_distance(y.numpy(), x.numpy(), num_subsets=1, max_subset_size=200)
    finally:
        np.random.set_state(state)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_is_the_expectation_of_torch_fidelitys_subsets():
    x, y = draw(300, 16, 2), draw(300, 16, 3, shift=0.2)
    settings = {"kid_subset_size": 300, "kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None}
    settings |= {"kid_kernel_poly_coef0": 1, "rng_seed": 0, "verbose": False}
    whole = kid_features_to_metric(x, y, kid_subsets=1, **settings)["kernel_inception_distance_mean"]
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-10)
    parts = kid_features_to_metric(x, y, kid_subsets=2000, **(settings | {"kid_subset_size": 50}))
    error = parts["kernel_inception_distance_std"] / 2000**0.5
    assert abs(parts["kernel_inception_distance_mean"] - kernel_distance(x, y)) < 4 * error


def test_kernel_distance_is_unbiased_and_grows_with_the_shift():
    values = torch.tensor([kernel_distance(draw(40, 8, 2 * s), draw(60, 8, 2 * s + 1)) for s in range(400)])
    assert abs(values.mean()) < 4 * values.std() / 20  # the biased estimator is ahead by more than ten times that
    shifted = [kernel_distance(draw(200, 8, 5, shift=s), draw(300, 8, 6)) for s in (0.0, 0.2, 0.4, 0.8)]
    assert shifted == sorted(shifted)


def test_kernel_distance_in_pieces_is_the_same(monkeypatch):
    x, y = draw(70, 8, 7), draw(50, 8, 8, shift=0.3)
    whole = kernel_distance(x, y)
    monkeypatch.setattr(pairs, "ROWS", 16)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_torch_fidelitys(k):
    samples, reference = draw(150, 6, 9, scale=0.8), draw(150, 6, 10)
    expected = prc_features_to_metric(samples, reference, prc_neighborhood=k, prc_batch_size=64, save_cpu_ram=False, verbose=False)
    mine = beside(samples, reference)
    assert 0 < mine.precision(k) < 1 and 0 < mine.recall(k) < 1
    assert mine.precision(k) == pytest.approx(expected["precision"], abs=1e-7)
    assert mine.recall(k) == pytest.approx(expected["recall"], abs=1e-7)


def test_density_and_coverage_are_their_definitions_counted_by_hand():
    samples, reference, k = draw(40, 3, 11, shift=0.5).tolist(), draw(30, 3, 12).tolist(), 5
    radius = [sorted(math.dist(x, z) for z in reference)[k] for x in reference]  # place 0 is x itself
    inside = [[math.dist(x, y) < r for y in samples] for x, r in zip(reference, radius, strict=True)]
    mine = beside(torch.tensor(samples), torch.tensor(reference))
    assert mine.density(k) == pytest.approx(sum(map(sum, inside)) / (k * len(samples)), rel=1e-12)
    assert mine.coverage(k) == pytest.approx(sum(map(any, inside)) / len(reference), rel=1e-12)


def test_density_and_coverage_of_equal_distributions():
    """For n and n points of one distribution: density 1, coverage 1 - prod (n - i) / (2 n - i) over i = 1..k, which goes to 1 - 2^-k."""
    n, k = 300, 5
    runs = [beside(draw(n, 4, 2 * s), draw(n, 4, 2 * s + 1)) for s in range(30)]
    density = torch.tensor([run.density(k) for run in runs])
    coverage = torch.tensor([run.coverage(k) for run in runs])
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    assert expected == pytest.approx(1 - 2**-k, abs=0.002)
    assert abs(density.mean() - 1) < 4 * density.std() / 30**0.5
    assert abs(coverage.mean() - expected) < 4 * coverage.std() / 30**0.5


def test_one_repeated_image_has_precision_without_recall():
    reference = draw(200, 4, 13)
    collapsed = reference[:1] + draw(200, 4, 14, scale=1e-3)
    both = beside(collapsed, reference)
    assert both.precision(3) == 1 and both.recall(3) <= 0.01 and both.coverage(5) < 0.2
    far = beside(draw(200, 4, 15, shift=50.0), reference)
    assert [far.precision(3), far.recall(3), far.density(5), far.coverage(5)] == [0, 0, 0, 0]


def test_too_few_images_for_k():
    with pytest.raises(UserError, match="5-th nearest neighbour needs more than 5 images; found 5"):
        Side(torch.rand(5, 5)).radii(5)


def counted_in_float64(samples, reference, k):
    """Precision, recall, density and coverage from distances between float64 differences, none of them by a product."""
    samples, reference = samples.double(), reference.double()
    to, of_samples, of_reference = (
        torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        for a, b in ((reference, samples), (samples, samples), (reference, reference))
    )
    radius, radius_of_samples = (x.sort(dim=1).values[:, k] for x in (of_reference, of_samples))
    inside = to < radius[:, None]
    recall = (to <= radius_of_samples[None]).any(1).double().mean()
    return [(to <= radius[:, None]).any(0).double().mean(), recall, inside.sum().item() / (k * len(samples)), inside.any(1).double().mean()]


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_float32_features_count_as_in_float64(offset):
    """Lengths that are large beside the distances cost a float32 product most of its digits; images that occur twice cost it all."""
    samples, reference = draw(300, 64, 16, shift=offset).float(), draw(280, 64, 17, shift=offset).float()
    samples[:40] = reference[:40]
    samples[40:80] = reference[:40] + 1e-4
    samples[80:90] = samples[90:100]
    for k in (3, 5):
        mine = beside(samples, reference)
        found = [mine.precision(k), mine.recall(k), mine.density(k), mine.coverage(k)]
        assert found == pytest.approx([float(value) for value in counted_in_float64(samples, reference, k)], abs=1e-12)


def test_kernel_distance_of_float32_features_keeps_the_digits_that_are_read():
    x, y = draw(400, 256, 18).abs().float(), draw(400, 256, 19).abs().float() * 1.01
    assert kernel_distance(x, y) == pytest.approx(kernel_distance(x.double(), y.double()), abs=1e-8)
