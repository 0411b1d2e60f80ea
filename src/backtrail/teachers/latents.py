"""Images as a latent teacher is trained on them: encoded once, with their captions' numbers and micro-conditioning, in one file."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backtrail.data.captions import PER_GARMENT
from backtrail.data.dataset import Dataset
from backtrail.data.fashion_text import choose_scenes
from backtrail.errors import UserError
from backtrail.nets.autoencoder import Autoencoder
from backtrail.parameters.text import PosteriorValue
from backtrail.teachers.autoencoder import encode
from backtrail.tensors import load_tensors, save_tensors


@dataclass(frozen=True)
class Latents:
    """The training images of `fashion-text`: latents float32 [N, c, h, w] of standard deviation about 1, captions int64 [N] by their
    numbers, time_ids float32 [N, 6].

    posterior: what the latents are of their images' posteriors, a sample or the mean. scaling_factor: what they were multiplied by.
    """

    latents: Tensor
    captions: Tensor
    time_ids: Tensor
    posterior: PosteriorValue
    scaling_factor: float


def encode_dataset(net: Autoencoder, dataset: Dataset, posterior: PosteriorValue, seed: int) -> Latents:
    """Encode the training images of the data set with that seed of scenes. Raises UserError if the data set is of another seed."""
    captions = dataset.train_labels
    scenes = choose_scenes(captions.numpy() // PER_GARMENT, seed, "train", held_out=False)
    if not torch.equal(torch.from_numpy(scenes.captions), captions):
        raise UserError(f"the data set's captions are not those of text.seed = {seed}: run the stage `text-dataset` again")
    latents = encode(net, dataset.train_images, posterior)
    return Latents(latents, captions, torch.from_numpy(scenes.time_ids).float(), posterior, net.scaling_factor.item())


def save_latents(path: str | Path, latents: Latents, **extra: str) -> None:
    """Write the archive, `extra` (digests of what it was made from) beside the rest in its header."""
    tensors = {"latents": latents.latents, "captions": latents.captions, "time_ids": latents.time_ids}
    save_tensors(path, tensors, {"posterior": latents.posterior, "scaling_factor": latents.scaling_factor, **extra})


def load_latents(path: str | Path) -> Latents:
    """Read the archive back. Raises UserError if it is absent, damaged, or holds something else."""
    tensors, metadata = load_tensors(path)
    if set(tensors) != {"latents", "captions", "time_ids"} or "posterior" not in metadata:
        raise UserError(f"{path} is no archive of latents: run the stage `text-latents` again")
    return Latents(**tensors, posterior=metadata["posterior"], scaling_factor=metadata["scaling_factor"])
