"""Metrics over pairs of features: KID, precision and recall, density and coverage, from one matrix product a pair of sets.

Products are taken in the features' own dtype. A squared distance that is too near a radius for its digits to decide is computed anew in
float64, so that what is counted is as in float64. The number of images on either side stands in the protocol: all of these hang on it.

KID averages the same unbiased estimator over random subsets of 1,000; all pairs have the same expectation, less variance, and no random
numbers. clean-fid's `kernel_distance` and torch-fidelity give the same value for one subset that holds everything.
"""

from functools import cached_property

import torch
from torch import Tensor

from backtrail.errors import UserError
from backtrail.metrics.products import symmetric_product

ROWS = 256  # rows of a matrix of pairs at a time, so that they stay in the processor's cache
UNSURE = 100  # a squared distance is unsure by so many units in the last place of the squared lengths; measured: below 20
CHUNK = 128  # images taken to float64 at a time, for the same reason


class Side:
    """One set of features [n, d] with what its own pairs give, computed once and kept."""

    def __init__(self, features: Tensor):
        self.features = features
        self._radii: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def squares(self) -> Tensor:
        """The squared lengths, float64 [n]."""
        return torch.cat([torch.linalg.vecdot(rows, rows) for rows in map(Tensor.double, self.features.split(CHUNK))])

    @cached_property
    def products(self) -> Tensor:
        """The inner products [n, n]."""
        return symmetric_product(self.features, self.features.T)

    @cached_property
    def kernel_mean(self) -> float:
        """The mean of the kernel over pairs of two different images; the unbiased estimator's part within a set."""
        whole, alone = (kernel_sum(products, self.features.shape[1]) for products in (self.products, self.products.diagonal()))
        return (whole - alone) / (len(self) * (len(self) - 1))

    def radii(self, k: int) -> Tensor:
        """The squared distance from each image to its k-th nearest other one, float64 [n].

        Raises UserError if there are not more than k images.
        """
        if len(self) <= k:
            raise UserError(f"the {k}-th nearest neighbour needs more than {k} images; found {len(self)}")
        if k not in self._radii:
            squared = (self.squares.to(self.features.dtype) - 2 * self.products).fill_diagonal_(-torch.inf)
            neighbour = squared.topk(k + 1, largest=False).indices[:, k]  # of each row, so the row's own square need not be added
            self._radii[k] = squared_distances(self.features, self.features, torch.arange(len(self)), neighbour)
        return self._radii[k]


class Pairs:
    """Samples beside a reference. The reference's own part is computed once for however many samples it is used with."""

    def __init__(self, samples: Side, reference: Side):
        self.samples, self.reference = samples, reference
        self._around: dict[int, Tensor] = {}  # `beyond` the reference's radii, by k

    @cached_property
    def products(self) -> Tensor:
        """The inner products [m, n] of the reference's m images and the samples' n."""
        return self.reference.features @ self.samples.features.T

    def beyond(self, radii: Tensor) -> Tensor:
        """Squared distance less `radii` (squared, float64 [m, 1] or [1, n]) of each pair, [m, n], its sign as in float64."""
        dtype, (a, b) = self.products.dtype, (self.reference.squares[:, None], self.samples.squares[None])
        gap = torch.add((a - radii if radii.shape[1] == 1 else a).to(dtype), (b if radii.shape[1] == 1 else b - radii).to(dtype))
        gap.sub_(self.products, alpha=2)
        margin = UNSURE * torch.finfo(dtype).eps * (self.reference.squares.max() + self.samples.squares.max()).item()
        rows, columns = (gap.abs() <= margin).nonzero(as_tuple=True)
        exact = squared_distances(self.reference.features, self.samples.features, rows, columns)
        gap[rows, columns] = (exact - radii.expand(gap.shape)[rows, columns]).to(dtype)
        return gap

    def kernel_distance(self) -> float:
        """The squared maximum mean discrepancy, unbiased (KID; Binkowski et al. 2018, arXiv 1801.01401), k(x, y) = (x . y / d + 1)^3.

        Unbiased, so below zero about half of the time if both are of one distribution. Not multiplied by 1000.
        """
        between = kernel_sum(self.products, self.samples.features.shape[1]) / self.products.numel()
        return self.samples.kernel_mean + self.reference.kernel_mean - 2 * between

    def precision(self, k: int) -> float:
        """The fraction of samples within the k-th neighbour's radius of a reference image (Kynkaanniemi et al. 2019, arXiv 1904.06991)."""
        return (self._around_reference(k).amin(0) <= 0).double().mean().item()

    def recall(self, k: int) -> float:
        """The fraction of reference images within the k-th neighbour's radius of a sample (arXiv 1904.06991)."""
        return (self.beyond(self.samples.radii(k)[None]).amin(1) <= 0).double().mean().item()

    def density(self, k: int) -> float:
        """How many reference balls hold a sample, on average, over k (Naeem et al. 2020, arXiv 2002.09797); 1 for equal laws."""
        return (self._around_reference(k) < 0).count_nonzero().item() / (k * len(self.samples))

    def coverage(self, k: int) -> float:
        """The fraction of reference images whose ball holds a sample (arXiv 2002.09797); 1 - 2^-k expected for equal ones."""
        return (self._around_reference(k).amin(1) < 0).double().mean().item()

    def _around_reference(self, k: int) -> Tensor:
        if k not in self._around:
            self._around[k] = self.beyond(self.reference.radii(k)[:, None])
        return self._around[k]


def kernel_sum(products: Tensor, dimension: int) -> float:
    """The sum of (p / dimension + 1)^3 over the inner products p [m, ...], added up in float64."""
    total = 0.0
    for rows in products.split(ROWS):
        base = rows / dimension + 1
        total += (base * base).mul_(base).sum(dtype=torch.float64).item()
    return total


def squared_distances(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """|a[rows] - b[columns]|^2 in float64, [n], of features a [m, d] and b [l, d]."""
    gaps = (a[i].double() - b[j] for i, j in zip(rows.split(CHUNK), columns.split(CHUNK), strict=True))
    return torch.cat([torch.linalg.vecdot(gap, gap) for gap in gaps])
