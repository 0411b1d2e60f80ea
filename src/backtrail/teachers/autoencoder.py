"""Train the first stage of a latent teacher (Rombach et al. 2022, arXiv 2112.10752), and encode and decode with it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backtrail.data.dataset import Dataset, batch, to_float, to_uint8
from backtrail.nets.autoencoder import Autoencoder, build_autoencoder
from backtrail.parameters.text import AutoencoderTraining, PosteriorValue
from backtrail.randomness import Draw, image_noise
from backtrail.training.data_parallel import ALONE, Group
from backtrail.training.loop import Losses
from backtrail.training.noise import per_value
from backtrail.training.state import TrainingState, adam, optimiser_step

BATCH = 128  # images that are encoded or decoded at a time


def autoencoder_state(p: AutoencoderTraining, device: torch.device | str = "cpu", group: Group = ALONE) -> TrainingState:
    """A run at step 0: module "autoencoder" and its Adam."""
    net = build_autoencoder(p.net, p.seed).to(device).train()
    return TrainingState({"autoencoder": net}, {"autoencoder": adam(net, p.optimiser)}, group=group)


def autoencoder_update(state: TrainingState, p: AutoencoderTraining, dataset: Dataset, step: int) -> Losses:
    """One update on a batch of images: |x - decode(z)| + kl_weight KL(q(z | x) || N(0, I)), z from q(z | x).

    Both are summed over an image and averaged over the batch, as in latent diffusion, which is what a weight of 1e-6 is for; there is no
    perceptual loss and no discriminator. The losses returned are per value of an image, the divergence in nats per image.
    """
    net, draw = state.modules["autoencoder"], Draw(p.seed, "autoencoder", step)
    clean, _ = batch(dataset.train_images, dataset.train_labels, p.batch, draw.of("batch"))
    totals = {name: torch.zeros((), dtype=torch.float64, device=state.device) for name in ("l1", "kl")}
    for part in state.group.parts(p.batch):
        own = clean[part.rows].to(state.device)
        latent = (p.batch, p.net.latent_channels, *(side // 4 for side in clean.shape[2:]))
        noise = draw.of("noise").rows(part).normal(latent).to(state.device)
        decoded, posterior = net(own, noise)
        l1, kl = (decoded - own).abs().flatten(1).sum(dim=1).mean(), posterior.kl().mean()
        (part.share * (l1 + p.kl_weight * kl)).backward()
        totals["l1"] += part.share * per_value(l1, clean)
        totals["kl"] += part.share * kl.detach().double()
    decay = (1 + math.cos(math.pi * step / p.steps)) / 2
    optimiser_step(state.optimisers["autoencoder"], p.optimiser, step, decay, state.group)
    return state.group.totals(totals)


@torch.no_grad()
def set_scale(net: Autoencoder, images: Tensor) -> None:
    """Set the scaling factor to 1 / std of the latents, samples of the posterior, of `images` uint8 [n, C, H, W], the first batch."""
    net.scaling_factor.fill_(1.0)
    net.scaling_factor.copy_(1 / encode(net, images, "sample").std())


@torch.no_grad()
def encode(net: Autoencoder, images: Tensor, posterior: PosteriorValue, split: str = "train", batch_size: int = BATCH) -> Tensor:
    """Scaled latents float32 [n, c, H/4, W/4], on the CPU, of images uint8 [n, C, H, W].

    posterior: the mean, or a sample in which the noise of image i of a split is a function of (split, i) alone.
    """
    device, found = net.scaling_factor.device, []
    for first in range(0, len(images), batch_size):
        q = net.encode(to_float(images[first : first + batch_size]).to(device))
        value = q.mean
        if posterior == "sample":
            rows = range(first, first + len(value))
            value = q.sample(image_noise(rows, tuple(value.shape[1:]), f"posterior-{split}").to(device))
        found.append((value * net.scaling_factor).cpu())
    return torch.cat(found)


@torch.no_grad()
def decode(net: Autoencoder, latents: Tensor | Sequence[Tensor], batch_size: int = BATCH) -> Tensor:
    """Images uint8 [n, C, H, W], on the CPU, of scaled latents [n, c, h, w]."""
    device = net.scaling_factor.device
    return torch.cat([to_uint8(net.decode(z.to(device) / net.scaling_factor)).cpu() for z in latents.split(batch_size)])
