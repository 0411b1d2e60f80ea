"""How the small nets that measure images are trained, and read back."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from backtrail.errors import UserError
from backtrail.nets.weights import check_numbers, misfit
from backtrail.randomness import derive_seed, generator

T = TypeVar("T", bound=nn.Module)


@dataclass(frozen=True)
class Fit:
    """Adam with a warm-up over the first tenth of the steps, then a cosine to zero; `purpose` names the draw of the first weights."""

    steps: int
    batch: int
    learning_rate: float
    seed: int
    purpose: str

    def __call__(
        self,
        build: Callable[[], T],
        loss: Callable[[T, Tensor], Tensor],
        n_images: int,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> T:
        """The net after training, in eval mode; the same bytes for the same arguments on the same kind of machine.

        loss: of a net and the images [batch], int64, that an update is made on; an epoch's last images that do not fill a batch are left
        out. `on_step(steps done, loss)` is called after each. Raises UserError if there are fewer images than a batch holds.
        """
        per_epoch = n_images // self.batch
        if not per_epoch:
            raise UserError(
                f"the {self.purpose} learns from batches of {self.batch} images, and there are only {n_images}: ask for smaller ones"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, f"{self.purpose}-init"))
            net = build().to(memory_format=torch.channels_last).train()
        optimiser = torch.optim.Adam(net.parameters(), self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_factor(step, self.steps))
        for step in range(self.steps):
            if (place := step % per_epoch) == 0:
                order = epoch_order(n_images, self.seed, step // per_epoch)
            of_batch = loss(net, order[place * self.batch : (place + 1) * self.batch])
            optimiser.zero_grad()
            of_batch.backward()
            optimiser.step()
            schedule.step()
            if on_step:
                on_step(step + 1, of_batch.detach())
        return net.eval().requires_grad_(False)


def learning_rate_factor(step: int, n_steps: int) -> float:
    """Linear warm-up over the first tenth, times a cosine from one to zero."""
    return min(1.0, 10 * (step + 1) / n_steps) * (1 + math.cos(math.pi * step / n_steps)) / 2


def epoch_order(n_images: int, seed: int, epoch: int) -> Tensor:
    """The order of the images in one epoch, int64 [n_images]."""
    return torch.randperm(n_images, generator=generator(seed, "classifier-order", epoch))


def filled(net: T, weights: dict[str, Tensor], path: str | Path, cure: str) -> T:
    """The net with the weights of the file `path`, in eval mode. Raises UserError, with `cure`, if they do not fit it or are no numbers."""
    if found := misfit(net.state_dict(), weights):
        raise UserError(f"{path} does not fit the net that its header describes ({found}): {cure}")
    check_numbers(net.state_dict(), weights, path, cure)
    net.load_state_dict(weights, strict=True)
    return net.to(memory_format=torch.channels_last).eval().requires_grad_(False)
