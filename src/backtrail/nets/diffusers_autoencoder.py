"""Autoencoders of the diffusers library: images to latents and back, scaled in one place."""

import torch
from torch import Tensor, nn


class DiffusersAutoencoder(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] <-> latents [B, C, h, w] as the diffusion model knows them: scale (z - shift).

    The library's own encode and decode do not scale, its pipelines do.
    """

    def __init__(self, net: nn.Module, scale: float, shift: float = 0.0):
        super().__init__()
        self.net, self.scale, self.shift = net, scale, shift

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents of images: the mean of the posterior, or with standard normal `noise` of the latents' shape a sample of it.

        Of a VQModel the latents before they are put to the nearest code, where its noise has no place: ValueError.
        """
        found = self.net.encode(images)
        if not hasattr(found, "latent_dist"):
            if noise is not None:
                raise ValueError("a VQModel has no posterior to draw from")
            return self.scale * (found.latents - self.shift)
        law = found.latent_dist
        return self.scale * ((law.mean if noise is None else law.mean + law.std * noise) - self.shift)

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents, which a VQModel puts to the nearest code first; not cut to [-1, 1]."""
        return self.net.decode(latents / self.scale + self.shift).sample

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Images there and back: the floor of every distance that is measured on decoded images."""
        return self.decode(self.encode(images))
