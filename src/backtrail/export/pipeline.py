"""The student beside this file as a pipeline of diffusers: its U-Net, walked by Euler steps over the levels that it was trained on.

`DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)` loads it, by diffusers alone. The library's own
pipelines ask at whole time steps and start from other noise: with them a one-step student draws other images.
"""

from itertools import pairwise
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput

# sigmas: noise levels, from the first to the last. asked: (time step, level) that the U-Net is told at each but the last. start: what unit
# noise is scaled by. afs: the first step is the analytical one and costs nothing.
PLAN: dict[str, Any] = {}


class StudentPipeline(DiffusionPipeline):
    """A U-Net, and a scheduler that says what it estimates."""

    def __init__(self, unet: Any, scheduler: Any):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | None = None,
        noise: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Images as PIL's, as `np` in [0, 1], or as `pt` [B, C, H, W] in [-1, 1]; noise: unit, of that shape; class_labels [B]."""
        unet, drawn_on = self.unet, "cpu" if generator is None else generator.device
        if noise is None:
            side = unet.config.sample_size
            height, width = side if isinstance(side, (list, tuple)) else (side, side)
            noise = torch.randn((batch_size, unet.config.in_channels, height, width), generator=generator, device=drawn_on)
        n_classes = unet.config.num_class_embeds
        if n_classes and class_labels is None:
            class_labels = torch.randint(n_classes, (len(noise),), generator=generator, device=drawn_on)
        labels = class_labels.to(self.device) if n_classes else None
        x = (PLAN["start"] * noise.double()).to(self.device, noise.dtype)
        for step, (sigma, following) in enumerate(pairwise(PLAN["sigmas"])):
            x0 = x * (1 - sigma / (1 + sigma**2) ** 0.5) if PLAN["afs"] and step == 0 else self.estimate(x, *PLAN["asked"][step], labels)
            x = torch.lerp(x0, x, following / sigma)
        if output_type == "pt":
            return ImagePipelineOutput(images=x)
        pixels = (x / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(pixels) if output_type == "pil" else pixels)

    def estimate(self, x: torch.Tensor, time: float, sigma: float, labels: torch.Tensor | None) -> torch.Tensor:
        """x0 of x = x0 + sigma z, [B, C, H, W], by what the U-Net estimates of the scaled x (arXiv 2006.11239, Eq. 4)."""
        scale = (sigma**2 + 1) ** -0.5
        told = torch.full((len(x),), time, dtype=x.dtype, device=x.device)
        output = self.unet((x * scale).to(self.unet.dtype), told, class_labels=labels).sample[:, : x.shape[1]].to(x.dtype)
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return x - sigma * output
        return output if kind == "sample" else scale * (scale * x - sigma * output)
