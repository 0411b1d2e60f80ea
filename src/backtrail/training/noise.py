"""Laws of the noise level in training, and the loss that they weight."""

from torch import Tensor

from backtrail.conditions import Condition
from backtrail.denoiser import NetDenoiser, per_image
from backtrail.levels import noise_levels
from backtrail.parameters.training import DiscreteSteps, KarrasGrid, LogNormal, NoiseLaw
from backtrail.randomness import Draw
from backtrail.sampling.schedules import polynomial, vp_betas, vp_sigma


def draw_sigma(law: NoiseLaw, n: int, draw: Draw) -> Tensor:
    """Noise levels for a batch of n, float32, the rows of the draw's part."""
    if isinstance(law, LogNormal):
        return (law.mean + law.std * draw.normal((n,))).exp()
    if isinstance(law, DiscreteSteps):
        return noise_levels(law.betas)[law.first + draw.integers(law.last - law.first + 1, n)].float()
    if isinstance(law, KarrasGrid):
        grid = polynomial(law.n, law.sigma_min, law.sigma_max, law.rho).float()
        return grid[law.first + draw.integers(law.last - law.first + 1, n)]
    tau = law.low + (law.high - law.low) * draw.uniform(n)
    return vp_sigma(tau.double(), *vp_betas(0.002, 80.0)).float()


def diffuse(x0: Tensor, law: NoiseLaw, draw: Draw) -> tuple[Tensor, Tensor]:
    """x_t = x0 + sigma eps with sigma from `law`: (x_t, sigma [B]); x0 [B, C, H, W] are the rows of the draw's part."""
    n = draw.batch(x0)
    sigma = draw_sigma(law, n, draw.of("sigma")).to(x0.device)
    noise = draw.of("noise").normal((n, *x0.shape[1:])).to(x0.device)
    return x0 + per_image(sigma, x0) * noise, sigma


def denoising_loss(model: NetDenoiser, denoised: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """Denoising score matching (arXiv 2206.00364, Eq. 2): mean over images of w(sigma) |D - x0|^2, w the model's own (`loss_weight`).

    For EDM's preconditioning w = (sigma^2 + sd^2) / (sigma sd)^2, for a network that estimates noise the loss is the error of that noise.
    The norm sums over an image, as the loops of EDM and Diff-Instruct do: Adam's eps is weighed against gradients of that size. A mean over
    the d values of an image would act as an eps d times larger (at d = 3,072 and eps 1e-8 it damps half of the weights by over 10 %).
    """
    weight = model.loss_weight(per_image(sigma, clean))
    return (weight * (denoised - clean) ** 2).flatten(1).sum(dim=1).mean()


def per_value(loss: Tensor, images: Tensor) -> Tensor:
    """A loss that is summed over an image as a mean over its values, which is what logs, curves and tables show: detached, float64."""
    return loss.detach().double() / images[0].numel()


def score_matching_loss(model: NetDenoiser, x0: Tensor, law: NoiseLaw, draw: Draw, condition: Condition | None = None) -> Tensor:
    """Denoising score matching on samples x0 (DisBack, Eq. 5 and Eq. 7), in the model's own weighting, summed over an image."""
    noisy, sigma = diffuse(x0, law, draw)
    return denoising_loss(model, model(noisy, sigma, condition), x0, sigma)
