"""The Frechet distance between two sets of features, by a cached factor of the reference's covariance.

tr sqrt(S S_r) is the sum of the square roots of the eigenvalues of F^T S F for any F with F F^T = S_r. That matrix is symmetric, so one
symmetric eigenvalue problem answers, no matrix square root, and a singular covariance costs no digits. F is lower trapezoidal, so that two
thirds of the multiplications in F^T S F are by zeros or give what symmetry gives. clean-fid's and torch-fidelity's
own functions agree where neither covariance is singular; the former calls `scipy.linalg.sqrtm(disp=)`, which SciPy 1.18 no longer has.
"""

import torch
from torch import Tensor

from backtrail.errors import UserError
from backtrail.metrics.products import lower_congruence, lower_product, symmetric_product

ROWS = 4096  # rows that are taken to float64 at a time


def _mean(features: Tensor) -> Tensor:
    if len(features) < 2:
        raise UserError(f"a covariance needs the features of at least 2 images; found {len(features)}")
    mean = features.mean(0, dtype=torch.float64)
    if not mean.isfinite().all():  # one value that is not finite is enough
        raise UserError("features should be finite; found NaN or infinity: look at the images and at the extractor's weights")
    return mean


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and unbiased covariance [d, d] in float64 of features [n, d].

    Raises UserError for fewer than two rows and for values that are not finite.
    """
    mean = _mean(features)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for rows in features.split(ROWS):
        centred = rows - mean
        covariance += symmetric_product(centred.T, centred)
    return mean, covariance / (len(features) - 1)


def factor(covariance: Tensor) -> Tensor:
    """F [d, rank] in float64, lower trapezoidal, with F F^T = covariance [d, d]; directions below the numerical rank are left out."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    root = vectors[:, kept] * values[kept].sqrt()
    return torch.linalg.qr(root.mT, mode="r").R.mT  # F^T F of a square root's transpose Q R is R^T R


def frechet_distance(features: Tensor, reference_mean: Tensor, reference_factor: Tensor) -> float:
    """|m - m_r|^2 + tr S + tr S_r - 2 tr sqrt(S S_r) (Dowson & Landau 1982; Heusel et al. 2017, arXiv 1706.08500).

    features: [n, d] of the samples. reference_mean: float64 [d]. reference_factor: float64 [d, r] of `factor`. In squared units of the
    features; never below zero by more than rounding. With fewer samples than r the eigenvalue problem has the samples' size.
    Raises UserError for another d, fewer than two samples, and values that are not finite.
    """
    n, d = features.shape
    if reference_factor.triu(1).any():
        raise UserError("the reference's factor should be lower trapezoidal, as this version computes it: run the stage `reference` again")
    if reference_factor.shape[0] != d:
        raise UserError(
            f"the samples have {d} features and the reference statistics {reference_factor.shape[0]}: make both with one extractor"
        )
    if n < reference_factor.shape[1]:
        return _few_samples(features, reference_mean, reference_factor)
    mean, covariance = moments(features)
    return _assemble(mean - reference_mean, covariance.trace(), reference_factor, lower_congruence(reference_factor, covariance))


def _few_samples(features: Tensor, reference_mean: Tensor, reference_factor: Tensor) -> float:
    """The same with S = A^T A, A [n, d]: F^T A^T A F and A F F^T A^T [n, n] have the same non-zero eigenvalues."""
    mean = _mean(features)
    centred = (features - mean) / (len(features) - 1) ** 0.5
    projected = lower_product(centred, reference_factor)
    return _assemble(mean - reference_mean, centred.square().sum(), reference_factor, symmetric_product(projected, projected.T))


def _assemble(difference: Tensor, trace: Tensor, reference_factor: Tensor, product: Tensor) -> float:
    """From m - m_r, tr S, F, and F^T S F, of which the lower triangle is read."""
    roots = torch.linalg.eigvalsh(product, UPLO="L").clamp_min(0).sqrt()
    return (difference.square().sum() + trace + reference_factor.square().sum() - 2 * roots.sum()).item()
