"""The mismatch degree (DisBack, arXiv 2408.15991, Fig. 4): how badly the target's score fits the student's samples.

Three readings, per sample x0 of the student, with x = x0 + sigma * noise, D_T the denoiser of the current target (the teacher for
Diff-Instruct, the current node for DisBack) and D_ref one that is fitted to the student as it is now; norms are Euclidean over all pixels:

  raw         |D_T(x) - x0| / sigma^2                     = |s_T(x) - grad log q(x | x0)|, q the noise kernel
  excess      |D_T(x) - x0|^2 - |D_ref(x) - x0|^2         expectation |D_T - D_ref|^2 if D_ref is the student's exact denoiser
  difference  |D_T(x) - D_ref(x)| / sigma^2               = |s_T(x) - s_ref(x)|

Raw has a floor that no target can go below (the spread of x0 given x), which dominates in high dimension; excess and difference take it
out and are as good as D_ref is fitted. The paper's own convention (noise levels, weights, what its band spans) is unverified: compare
curves of one definition with each other, and none with the paper's axis. The fake score is no D_ref where it starts as the target.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from backtrail.conditions import Condition
from backtrail.denoiser import Denoiser
from backtrail.errors import UserError
from backtrail.randomness import image_noise


def readings(target: Denoiser, reference: Denoiser, x0: Tensor, noise: Tensor, sigma: float, condition: Condition | None) -> Tensor:
    """raw, excess and difference per sample, float64 [3, n], of samples x0 [n, C, H, W] with standard normal `noise` of that shape."""
    level = torch.tensor(sigma, dtype=x0.dtype, device=x0.device)
    x = x0 + level * noise
    by_target, by_reference = (denoiser(x, level, condition).double().flatten(1) for denoiser in (target, reference))
    clean = x0.double().flatten(1)
    error, reference_error = (by_target - clean).norm(dim=1), (by_reference - clean).norm(dim=1)
    difference = (by_target - by_reference).norm(dim=1)
    return torch.stack([error / sigma**2, error**2 - reference_error**2, difference / sigma**2])


@torch.no_grad()
def mismatch(
    target: Denoiser,
    reference: Denoiser,
    samples: Tensor,
    sigmas: Sequence[float],
    batch_size: int = 256,
    condition: Condition | None = None,
) -> pd.DataFrame:
    """One row per sigma: sigma, and mean and standard deviation (n - 1) over the samples of raw, excess and difference.

    samples: float32 [n, C, H, W] of the student in [-1, 1], from the same latents at every point of a curve. The noise of sample i depends
    on i alone and is the same for every sigma and at every point. Raises UserError for fewer than two samples or a sigma of zero or less.
    """
    if len(samples) < 2 or min(sigmas) <= 0:
        raise UserError(f"the mismatch degree needs at least 2 samples and positive sigmas; found {len(samples)} and {list(sigmas)}")
    noise = image_noise(range(len(samples)), tuple(samples.shape[1:]), "mismatch").to(samples)
    names = ("raw", "excess", "difference")
    rows = []
    for sigma in sigmas:
        parts = []
        for start in range(0, len(samples), batch_size):
            part = slice(start, start + batch_size)
            parts.append(readings(target, reference, samples[part], noise[part], sigma, condition.rows(part) if condition else None))
        values = torch.cat(parts, 1)
        means, stds = values.mean(1).tolist(), values.std(1).tolist()
        row = {"sigma": sigma}
        for name, mean, std in zip(names, means, stds, strict=True):
            row |= {f"{name}_mean": mean, f"{name}_std": std}
        rows.append(row)
    return pd.DataFrame(rows)
