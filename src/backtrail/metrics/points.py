"""What is exact in the plane: the denoiser of a set of points, and the distance of a teacher or student to the law it learns."""

import torch
from torch import Tensor

from backtrail.denoiser import Condition, per_image


class PointsDenoiser:
    """E[x0 | x] where x0 is one of `points` [n, C, H, W], each as likely as the others.

    With thousands of points of a student in the plane and a sigma well above their spacing this is the student's own denoiser, without a
    net and without a fit.
    """

    def __init__(self, points: Tensor):
        self.shape, self.points = points.shape[1:], points.flatten(1)

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """x [B, C, H, W], sigma scalar or [B] -> [B, C, H, W]."""
        variance = per_image(torch.as_tensor(sigma, dtype=x.dtype, device=x.device), x).reshape(-1, 1) ** 2
        squared = torch.cdist(x.flatten(1), self.points, compute_mode="donot_use_mm_for_euclid_dist").square()
        return ((-squared / (2 * variance)).softmax(dim=1) @ self.points).reshape(-1, *self.shape)
