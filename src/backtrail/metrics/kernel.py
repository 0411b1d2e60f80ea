"""The kernel distance (KID) between two sets of features, over all pairs.

The usual KID averages the same unbiased estimator over random subsets of 1,000; all pairs have the same expectation, less variance, and
no random numbers. clean-fid's `kernel_distance` and torch-fidelity give the same value for one subset that holds everything.
"""

from torch import Tensor

ROWS = 2048  # rows of the kernel matrix at a time


def kernel_sum(a: Tensor, b: Tensor) -> float:
    """The sum of k(x, y) = (x . y / d + 1)^3 over the rows x of a [n, d] and y of b [m, d], in float64."""
    b = b.double()
    return sum(((rows.double() @ b.T) / b.shape[1] + 1).pow_(3).sum().item() for rows in a.split(ROWS))


def diagonal_sum(a: Tensor) -> float:
    """The sum of k(x, x) over the rows of a [n, d]."""
    return (a.double().square().sum(1) / a.shape[1] + 1).pow(3).sum().item()


def kernel_distance(samples: Tensor, reference: Tensor) -> float:
    """The squared maximum mean discrepancy, unbiased (Binkowski et al. 2018, arXiv 1801.01401), of features [n, d] and [m, d].

    Unbiased, so below zero about half of the time if both are of one distribution. Not multiplied by 1000.
    """
    within = [(kernel_sum(x, x) - diagonal_sum(x)) / (len(x) * (len(x) - 1)) for x in (samples, reference)]
    return sum(within) - 2 * kernel_sum(samples, reference) / (len(samples) * len(reference))
