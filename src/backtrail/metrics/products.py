"""Matrix products that are symmetric, at little over half of their cost."""

from torch import Tensor

BLOCK = 128  # rows of the result at a time: fewer cost more calls, more cost more of the half that is thrown away


def symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """left [n, k] @ right [k, n] where that is known to be symmetric: its upper triangle, by blocks of rows, and the mirror of it."""
    product = left.new_empty(len(left), len(left))
    for i in range(0, len(left), BLOCK):
        j = i + BLOCK
        product[i:j, i:] = left[i:j] @ right[:, i:]
        product[j:, i:j] = product[i:j, j:].T
    return product
