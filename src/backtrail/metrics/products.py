"""Matrix products of which a part is known, by symmetry or by zeros, at little over the cost of the rest."""

from torch import Tensor

BLOCK = 256  # rows of the result at a time: fewer cost more calls, more cost more of what is known and computed all the same


def symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """left [n, k] @ right [k, n] where that is known to be symmetric: its upper triangle, by blocks of rows, and the mirror of it."""
    product = left.new_empty(len(left), len(left))
    for i in range(0, len(left), BLOCK):
        j = i + BLOCK
        product[i:j, i:] = left[i:j] @ right[:, i:]
        product[j:, i:j] = product[i:j, j:].T
    return product


def lower_product(left: Tensor, lower: Tensor) -> Tensor:
    """left [n, d] @ lower [d, r] for a lower trapezoidal one: its zeros are left out, half of the work if r = d."""
    product = left.new_empty(len(left), lower.shape[1])
    for i in range(0, lower.shape[1], BLOCK):
        product[:, i : i + BLOCK] = left[:, i:] @ lower[i:, i : i + BLOCK]
    return product


def lower_congruence(lower: Tensor, symmetric: Tensor) -> Tensor:
    """The lower triangle of lower.T @ symmetric @ lower [r, r], lower [d, r] lower trapezoidal; the rest is zeros or anything.

    With M = symmetric @ lower, an entry (i, j) with j <= i needs of M the rows from i on, so M's lower part suffices: a third of the work.
    """
    n = lower.shape[1]
    middle, product = lower.new_empty(lower.shape), lower.new_zeros(n, n)
    for i in range(0, n, BLOCK):
        middle[i:, i : i + BLOCK] = symmetric[i:, i:] @ lower[i:, i : i + BLOCK]
    for i in range(0, n, BLOCK):
        j = i + BLOCK
        product[i:j, :j] = lower[i:, i:j].T @ middle[i:, :j]
    return product
