"""Fidelity and diversity by nearest neighbours: precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

All four hang on the number of images on either side, so both sides have the same number and the number stands in the protocol.
"""

from torch import Tensor, cdist, inf

from backtrail.errors import UserError


def radii(distances: Tensor, k: int) -> Tensor:
    """The distance from each point to its k-th nearest other point [n], from the distances [n, n] within one set.

    Raises UserError if there are not more than k points.
    """
    if len(distances) <= k:
        raise UserError(f"the {k}-th nearest neighbour needs more than {k} images; found {len(distances)}")
    return distances.clone().fill_diagonal_(inf).kthvalue(k, dim=1).values


class Neighbours:
    """The distances between samples and reference, computed once for the four metrics.

    samples: features [n, d]; reference: features [m, d]. Distances are taken in float64: in float32 close pairs lose their digits.
    """

    def __init__(self, samples: Tensor, reference: Tensor):
        samples, reference = samples.double(), reference.double()
        self.within_samples = cdist(samples, samples)
        self.within_reference = cdist(reference, reference)
        self.between = cdist(reference, samples)  # [m, n]

    def precision(self, k: int) -> float:
        """The fraction of samples within the k-th neighbour's radius of a reference image (arXiv 1904.06991)."""
        return (self.between <= radii(self.within_reference, k)[:, None]).any(0).double().mean().item()

    def recall(self, k: int) -> float:
        """The fraction of reference images within the k-th neighbour's radius of a sample (arXiv 1904.06991)."""
        return (self.between <= radii(self.within_samples, k)[None]).any(1).double().mean().item()

    def density(self, k: int) -> float:
        """How many reference balls hold a sample, on average, over k (arXiv 2002.09797); about 1 for equal distributions."""
        return (self.between < radii(self.within_reference, k)[:, None]).double().sum(0).mean().item() / k

    def coverage(self, k: int) -> float:
        """The fraction of reference images whose ball holds a sample (arXiv 2002.09797); 1 - 2^-k expected for equal ones."""
        return (self.between.min(1).values < radii(self.within_reference, k)).double().mean().item()
