"""Does a Frechet distance rank? The floor between real images and real images, and images made worse in known steps."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backtrail.errors import UserError
from backtrail.metrics.evaluate import Measure, evaluate, metric_name, protocol
from backtrail.metrics.frechet import frechet_distance
from backtrail.metrics.reference import choose
from backtrail.parameters.metrics import Metrics
from backtrail.randomness import Draw

NOISE = (0.05, 0.1, 0.2)  # standard deviation, in units of the range [-1, 1]
BLUR = (0.5, 1.0)  # standard deviation of the Gaussian, pixels
ORDERS = (("real", "noise 0.05", "noise 0.1", "noise 0.2", "noise only"), ("real", "blur 0.5", "blur 1.0", "noise only"))


def add_noise(images: Tensor, std: float) -> Tensor:
    """uint8 images with Gaussian noise of `std` (in units of [-1, 1], that is of 127.5 grey levels), the same in every run."""
    noise = Draw(0, f"ranking-{std}").normal(tuple(images.shape)) * std * 127.5
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def blur(images: Tensor, std: float) -> Tensor:
    """uint8 images [n, C, H, W] blurred by a Gaussian of `std` pixels, cut at three of them; edges are reflected."""
    reach = max(1, int(3 * std + 0.5))
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / std) ** 2)
    kernel = kernel / kernel.sum()
    x = functional.pad(images.float().flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    x = functional.conv2d(functional.conv2d(x, kernel[None, None, None]), kernel[None, None, :, None])
    return x.reshape(images.shape).round().clamp(0, 255).to(torch.uint8)


def only_noise(images: Tensor) -> Tensor:
    """Gaussian noise of deviation 0.5 around mid-grey, in the shape of `images`."""
    return add_noise(torch.full_like(images, 128), 0.5)


def variants(images: Tensor) -> dict[str, Tensor]:
    """The images as they are, with more and more noise, more and more blurred, and noise alone."""
    noisy = {f"noise {std}": add_noise(images, std) for std in NOISE}
    blurred = {f"blur {std}": blur(images, std) for std in BLUR}
    return {"real": images, **noisy, **blurred, "noise only": only_noise(images)}


def ranking(images: Tensor, measure: Measure, batch_size: int) -> dict[str, Any]:
    """The Frechet distance of each variant of real images uint8 [n, C, H, W], and whether they stand in the right order.

    Returns {"values": {variant: distance}, "orders": [[variant, ...], ...], "holds": bool}.
    """
    extractor, reference = measure
    values = {
        name: frechet_distance(extractor.features(x, batch_size), reference.mean, reference.factor) for name, x in variants(images).items()
    }
    holds = all(values[a] < values[b] for order in ORDERS for a, b in pairwise(order))
    return {"values": values, "orders": [list(order) for order in ORDERS], "holds": holds}


def real_images(test_images: Tensor, measure: Measure, p: Metrics) -> dict[str, Any]:
    """What the numbers of one extractor are to be read against: metrics of real images, and the ranking of their distances.

    test_images: uint8 [N, C, H, W], none of them among the reference's training images. Returns {"floor": values of `p.n_samples` images,
    "floor_curve": the Frechet distance of `p.n_curve` images, "ranking": ..., "protocol": [...] of the floor}. Raises UserError if there
    are too few test images.
    """
    extractor, reference = measure
    n_floor = p.n_floor or p.n_samples
    if len(test_images) < (n := max(n_floor, p.n_curve)):
        asking = "metrics.n_floor" if p.n_floor else "metrics.n_samples"
        raise UserError(f"{asking} and n_curve ask for {n} test images; the data set has {len(test_images)}: choose at most that")
    images = test_images[choose(len(test_images), n)]
    alone = p.model_copy(update={"extractors": [extractor.name], "n_samples": n_floor, "samplings": 1})
    curve = frechet_distance(extractor.features(images[: p.n_curve], p.batch_size), reference.mean, reference.factor)
    return {
        "floor": evaluate(images[:n_floor], {extractor.name: measure}, alone),
        "floor_curve": {metric_name("fd", extractor): curve, "n_images": p.n_curve},
        "ranking": ranking(images[:n_floor], measure, p.batch_size),
        "protocol": protocol({extractor.name: measure}, alone, ()),
    }
