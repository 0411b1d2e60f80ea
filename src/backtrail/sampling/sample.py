"""Images from a denoiser: image i depends on seed i alone, whatever range of images is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from backtrail.conditions import Condition, Conditions, Labels
from backtrail.denoiser import Denoiser, NetDenoiser, NoiseRange, guided, start_scale
from backtrail.errors import UserError
from backtrail.parameters.sampling import Schedule
from backtrail.randomness import image_noise
from backtrail.sampling.schedules import descending, schedule
from backtrail.sampling.solvers import EVALUATIONS_PER_STEP, SOLVERS, AnalyticalFirstStep, Thresholded

STATES_SHOWN = 4  # images whose whole way from noise is kept, for pictures of trajectories
CHUNK = 64  # images per forward; part of the protocol, since convolutions round differently for other batch sizes
NONE = Labels()  # nothing is told


@dataclass(frozen=True)
class Sampler:
    """A way to turn noise into an image: a solver on a grid of `num_steps` time stamps, or one evaluation at `sigma_init` (num_steps None).

    afs: the first step is the analytical one and costs nothing. step_condition: the denoiser is told num_steps (SFD-v).
    guidance: weight w of the conditional branch (`Guided`); other than 1, every evaluation costs two.
    threshold: estimates are kept in the images' range (`Thresholded`). within: the noise levels that the denoiser knows; the grid is cut
    to them and moved to the nearest ones, as EDM's sampler does.
    """

    solver: str = "euler"
    num_steps: int | None = None
    schedule: Schedule = field(default_factory=Schedule)
    afs: bool = False
    step_condition: bool = False
    sigma_init: float = 80.0
    guidance: float = 1.0
    threshold: bool = False
    within: NoiseRange = field(default_factory=NoiseRange)

    @property
    def nfe(self) -> int:
        """Network evaluations per image, both branches of guidance counted."""
        branches = 1 if self.guidance == 1 else 2
        if self.num_steps is None:
            return branches
        return ((self.num_steps - 1) * EVALUATIONS_PER_STEP[self.solver] - self.afs) * branches

    @property
    def name_of_student(self) -> str:
        """The name under which a student's images stand: its own, with the weight of guidance where there is some."""
        return "student" if self.guidance == 1 else f"student-w{self.guidance:g}"

    def times(self) -> Tensor:
        """The grid as float64 [num_steps]. Raises UserError if no network evaluation would be left."""
        if self.num_steps is None or self.nfe < 1:
            raise UserError(
                f"{self.num_steps} time stamps{' with the analytical first step' if self.afs else ''} leave no network evaluation"
            )
        s, within = self.schedule, self.within
        t_min, t_max = max(s.t_min, within.sigma_min), min(s.t_max, within.sigma_max)
        return descending(
            within.nearest(schedule(s.kind, self.num_steps, t_min, t_max, s.rho, s.betas)), f"{s.kind} at the net's noise levels"
        )

    def levels(self) -> list[float]:
        """The noise level of each state: the time stamps, or sigma_init and 0 for one evaluation."""
        return [self.sigma_init, 0.0] if self.num_steps is None else self.times().tolist()

    def states(self, denoiser: Denoiser, noise: Tensor, condition: Condition | None = None) -> Iterator[Tensor]:
        """Unit noise [B, C, H, W] -> the states on the way from x_N to x0, [B, C, H, W] each, at `levels`, in the model's range.

        What the first is scaled by is the denoiser's to say. Guidance is the denoiser's part (`sample` puts it around).
        """
        if self.num_steps is None:
            start = start_scale(denoiser, self.sigma_init) * noise
            yield start
            yield denoiser(start, torch.tensor(self.sigma_init, dtype=noise.dtype, device=noise.device), condition)
            return
        times = self.times()
        if self.step_condition:
            steps = torch.full((len(noise),), float(self.num_steps), device=noise.device)
            condition = replace(condition or Condition(), steps=steps)
        start = (start_scale(denoiser, times[0].item()) * noise.double()).to(noise.dtype)
        yield start
        stepped = AnalyticalFirstStep(denoiser) if self.afs else denoiser
        yield from SOLVERS[self.solver](Thresholded(stepped) if self.threshold else stepped, start, times, condition)

    def __call__(self, denoiser: Denoiser, noise: Tensor, condition: Condition | None = None) -> Tensor:
        """Unit noise [B, C, H, W] -> x0 [B, C, H, W] in the model's range."""
        *_, x0 = self.states(denoiser, noise, condition)
        return x0


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    indices: range,
    shape: tuple[int, ...],
    conditions: Conditions = NONE,
    purpose: str = "image",
    device: torch.device | str = "cpu",
) -> Tensor:
    """Images `indices` as float32 [len(indices), *shape] on the CPU, in the model's range.

    Image i is always computed at the same place of the same chunk of 64, so it is the same to the bit for every range that holds it.
    So is what it is told (`conditions`; a class is drawn from seed i). Raises UserError for guidance where nothing is told.
    """
    denoiser, images = guided(denoiser, sampler.guidance, conditions), []
    for first in range(indices.start - indices.start % CHUNK, indices.stop, CHUNK):
        chunk = range(first, first + CHUNK)
        told = conditions.of_images(chunk)
        x = sampler(denoiser, image_noise(chunk, shape, purpose).to(device), told.to(device) if told else None).float().cpu()
        images.append(x[max(indices.start - first, 0) : indices.stop - first])
    return torch.cat(images)


@torch.no_grad()
def sample_states(denoiser: NetDenoiser, sampler: Sampler, n_images: int) -> Tensor:
    """The whole way of the first images from noise: float32 [T, n_images, C, H, W] on the CPU, at the sampler's `levels`.

    They are the images 0 ... n_images - 1 of `sample`, within rounding (the batch is another).
    """
    told = denoiser.condition_of_images(range(n_images))
    noise = image_noise(range(n_images), denoiser.image_shape, "image").to(denoiser.device)
    states = sampler.states(guided(denoiser, sampler.guidance, denoiser.conditions), noise, told)
    return torch.stack([x.float().cpu() for x in states])
