"""The net for points in a few dimensions: the methods that train images train it too, on images of shape [d, 1, 1]."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backtrail.denoiser import Condition
from backtrail.nets.blocks import Net
from backtrail.nets.unet import StepCondition, sinusoidal, zero_
from backtrail.parameters.net import MLPParameters


class Layer(nn.Module):
    """Linear layer with a shift by the noise level (and by the number of time stamps), then SiLU."""

    def __init__(self, n_in: int, n_out: int, n_embedding: int, step_condition: bool):
        super().__init__()
        self.linear, self.affine = nn.Linear(n_in, n_out), nn.Linear(n_embedding, n_out, bias=False)
        self.affine_step = nn.Linear(n_embedding, n_out) if step_condition else None
        if self.affine_step is not None:
            zero_(self.affine_step)

    def forward(self, x: Tensor, embedding: Tensor, step_embedding: Tensor | None) -> Tensor:
        h = self.linear(x) + self.affine(embedding)
        if self.affine_step is not None and step_embedding is not None:
            h = h + self.affine_step(step_embedding)
        return F.silu(h)


class MLP(Net):
    """F(x [B, d, 1, 1], c_noise [B], condition) -> [B, d, 1, 1]; see `MLPParameters` for the fields of `p`."""

    def __init__(self, p: MLPParameters):
        super().__init__((p.image_channels, 1, 1), p.n_classes, p.step_condition)
        self.p = p
        self.embed_noise = nn.Sequential(nn.Linear(32, p.width), nn.SiLU())
        self.embed_label = nn.Embedding(p.n_classes + 1, p.width) if p.n_classes else None  # the last row is the null label
        self.embed_step = StepCondition(p.width) if p.step_condition else None
        widths = [p.image_channels, *[p.width] * p.layers]
        self.layers = nn.ModuleList(Layer(n_in, p.width, p.width, p.step_condition) for n_in in widths[:-1])
        self.head = nn.Linear(p.width, p.image_channels)
        zero_(self.head)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition | None = None) -> Tensor:
        embedding = self.embed_noise(sinusoidal(c_noise, 32, max_period=100.0))  # ln(sigma)/4 lies in [-1.6, 1.1]
        labels, steps = (condition.labels, condition.steps) if condition is not None else (None, None)
        if self.embed_label is not None:
            embedding = embedding + self.embed_label(torch.full((len(x),), self.p.n_classes, device=x.device) if labels is None else labels)
        step_embedding = self.embed_step(steps) if self.embed_step is not None and steps is not None else None
        h = x.flatten(1)
        for layer in self.layers:
            h = layer(h, embedding, step_embedding)
        return self.head(h).reshape(x.shape)
