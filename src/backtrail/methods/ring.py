"""A ring of Gaussians in the plane: data whose score is known exactly, on which the methods run in seconds, unchanged.

A point is an image of shape [2, 1, 1], the net is the MLP, and everything else is the code that trains on pictures.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backtrail.denoiser import Condition, NetDenoiser, per_image
from backtrail.nets.build import build
from backtrail.parameters.teacher import Teacher
from backtrail.randomness import Draw
from backtrail.training.loop import Losses, run
from backtrail.training.noise import score_matching_loss
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState, adam, optimiser_step, update_average, weights

SHAPE = (2, 1, 1)


@dataclass(frozen=True)
class Ring:
    """Equal Gaussians of standard deviation `std` at equal angles on a circle of radius `radius`, in units of the data."""

    modes: int = 8
    radius: float = 0.7
    std: float = 0.05

    @property
    def centres(self) -> Tensor:
        """float64 [modes, 2]."""
        angles = torch.arange(self.modes, dtype=torch.float64) * (2 * math.pi / self.modes)
        return self.radius * torch.stack([angles.cos(), angles.sin()], dim=1)

    @property
    def sigma_data(self) -> float:
        """Standard deviation of a coordinate."""
        return math.sqrt(self.radius**2 / 2 + self.std**2)

    def points(self, n: int, seed: int, purpose: str, step: int = 0) -> Tensor:
        """Samples, float32 [n, 2, 1, 1], a function of (seed, purpose, step)."""
        draw = Draw(seed, purpose, step)
        centres = self.centres.float()[draw.of("mode").integers(self.modes, n)]
        return centres.reshape(n, *SHAPE) + self.std * draw.of("point").normal((n, *SHAPE))

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """The exact denoiser E[x0 | x] of the ring: x [B, 2, 1, 1], sigma scalar or [B] -> [B, 2, 1, 1]."""
        variance = self.std**2 + per_image(torch.as_tensor(sigma, dtype=x.dtype), x) ** 2
        centres = self.centres.to(x.dtype).reshape(1, self.modes, *SHAPE)
        squared = (x[:, None] - centres).square().sum(dim=2, keepdim=True)
        share = (-squared / (2 * variance[:, None])).softmax(dim=1)
        centre = (share * centres).sum(dim=1)
        return centre + self.std**2 / variance * (x - centre)


def ring_teacher(ring: Ring, p: Teacher, scratch: Scratch | None = None) -> NetDenoiser:
    """A denoiser fitted to fresh points of the ring at each step; the averaged weights, frozen."""
    net = build(p.net, ring.sigma_data, p.seed)
    state = TrainingState({"teacher": net}, {"teacher": adam(net, p.optimiser)}, averages={"teacher": weights(net)})

    def update(step: int) -> Losses:
        points = ring.points(p.batch, p.seed, "teacher-batch", step)
        loss = score_matching_loss(net, points, p.noise, Draw(p.seed, "teacher", step))
        loss.backward()
        optimiser_step(state.optimisers["teacher"], p.optimiser, step, factor=(1 + math.cos(math.pi * step / p.steps)) / 2)
        update_average(state.averages["teacher"], net, p.average, step, p.batch)
        return {"loss": loss.item()}

    for _ in run(state, update, p.steps, scratch):
        pass
    net.load_state_dict(state.averages["teacher"])
    return net.eval().requires_grad_(False)


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 64) -> float:
    """Sliced 2-Wasserstein distance of two samples of equal size [n, 2, 1, 1], over equally spaced directions, in units of the data."""
    angles = torch.arange(directions, dtype=torch.float64) * (math.pi / directions)
    axes = torch.stack([angles.cos(), angles.sin()])
    projected = ((points.double().flatten(1) @ axes).sort(dim=0).values for points in (x, y))
    a, b = projected
    return (a - b).square().mean().sqrt().item()
