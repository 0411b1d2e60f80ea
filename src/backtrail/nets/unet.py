"""The built-in U-Net: small enough for a laptop without a GPU, with every condition that the methods need.

A pixel-unshuffle stem folds `stem` x `stem` pixels into channels before the first convolution: at 16x16 pixels that alone is worth four
times in speed and costs next to nothing in quality.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backtrail.denoiser import Condition
from backtrail.nets.blocks import Net, attention, laid_out, norm_silu, number_layers, recomputed
from backtrail.nets.convolution import Convolution
from backtrail.parameters.net import UNetParameters
from backtrail.randomness import Masks, current_masks, dropout


def sinusoidal(values: Tensor, channels: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of scalars: [B] -> [B, channels]."""
    frequencies = torch.arange(channels // 2, dtype=torch.float32, device=values.device)
    angles = values.float()[:, None] * max_period ** (-frequencies / (channels // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class StepCondition(nn.Module):
    """SFD-v's condition on the number of time stamps (arXiv 2409.19681, step condition): embedding, then two linear layers with SiLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.layers = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels), nn.SiLU())

    def forward(self, steps: Tensor) -> Tensor:
        return self.layers(sinusoidal(steps, self.channels))


class Block(nn.Module):
    """Residual block with scale and shift by the noise level; the second convolution starts at zero, so a new block is the identity."""

    def __init__(self, c_in: int, c_out: int, c_embedding: int, dropout: float, attention: bool, step_condition: bool):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, c_in), Convolution(c_in, c_out, 3)
        self.affine = nn.Linear(c_embedding, 2 * c_out)
        # Started at zero the student of SFD-v begins equal to the teacher; the released code starts it at random.
        self.affine_step = nn.Linear(c_embedding, c_out) if step_condition else None
        self.norm2, self.conv2 = nn.GroupNorm(8, c_out), Convolution(c_out, c_out, 3)
        self.skip = Convolution(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out) if attention else nn.Identity()
        self.dropout, self.layer, self.checkpointed = dropout, 0, False
        zero_(self.conv2)
        if self.affine_step is not None:
            zero_(self.affine_step)

    def forward(self, x: Tensor, embedding: Tensor, step_embedding: Tensor | None) -> Tensor:
        return recomputed(self, self._compute, x, embedding, step_embedding, current_masks() if self.training else None)

    def _compute(self, x: Tensor, embedding: Tensor, step_embedding: Tensor | None, masks: Masks | None) -> Tensor:
        h = self.conv1(norm_silu(self.norm1, x))
        if self.affine_step is not None and step_embedding is not None:
            h = h + self.affine_step(step_embedding)[:, :, None, None]
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        h = self.conv2(dropout(h, self.dropout if self.training else 0.0, masks, self.layer))
        return self.attention(h.add_(self.skip(x)).mul_(math.sqrt(0.5)))


class Attention(nn.Module):
    """Single-head self-attention over the pixels, residual, started at zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.qkv, self.out = (
            nn.GroupNorm(8, channels),
            Convolution(channels, 3 * channels, 1),
            Convolution(channels, channels, 1),
        )
        zero_(self.out)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2)[:, None].chunk(3, dim=2)  # [B, 1, C, H*W] each
        return self.out(attention(q, k, v).reshape(x.shape)).add_(x).mul_(math.sqrt(0.5))


def zero_(layer: nn.Conv2d | nn.Linear) -> None:
    """Set a layer's weight and bias to zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class UNet(Net):
    """F(x [B, C, H, W], c_noise [B], condition) -> [B, C, H, W]; see `UNetParameters` for the fields of `p`."""

    def __init__(self, p: UNetParameters):
        super().__init__((p.image_channels, p.resolution, p.resolution), p.n_classes, p.step_condition)
        self.p = p
        c_embedding = 4 * p.channels[0]
        self.embed_noise = nn.Sequential(nn.Linear(p.channels[0], c_embedding), nn.SiLU(), nn.Linear(c_embedding, c_embedding))
        # One row more than there are classes: the last is the null label of classifier-free guidance.
        self.embed_label = nn.Embedding(p.n_classes + 1, c_embedding) if p.n_classes else None
        self.embed_step = StepCondition(c_embedding) if p.step_condition else None

        def block(c_in: int, c_out: int, level: int) -> Block:
            return Block(c_in, c_out, c_embedding, p.dropout, level in p.attention_levels, p.step_condition)

        width = p.channels[0]
        self.stem = Convolution(p.image_channels * p.stem**2, width, 3)
        self.down, skips = nn.ModuleList(), []
        for level, channels in enumerate(p.channels):
            for _ in range(p.blocks):
                self.down.append(block(width, channels, level))
                width = channels
                skips.append(width)
            if level < len(p.channels) - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.middle = block(width, width, len(p.channels) - 1)
        self.up = nn.ModuleList()
        for level, channels in reversed(list(enumerate(p.channels))):
            for _ in range(p.blocks):
                self.up.append(block(width + skips.pop(), channels, level))
                width = channels
            if level > 0:
                self.up.append(Convolution(width, width, 3))
        self.norm, self.head = nn.GroupNorm(8, width), Convolution(width, p.image_channels * p.stem**2, 3)
        zero_(self.head)
        number_layers(self, Block)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition | None = None) -> Tensor:
        embedding = self.embed_noise(sinusoidal(c_noise * 250, self.p.channels[0]))  # ln(sigma)/4 lies in [-1.6, 1.1]: spread it
        if self.embed_label is not None:
            null = torch.full((len(x),), self.p.n_classes, device=x.device)
            labels = condition.labels if condition is not None and condition.labels is not None else null
            embedding = embedding + self.embed_label(labels)
        embedding = F.silu(embedding)
        steps = condition.steps if condition is not None else None
        step_embedding = self.embed_step(steps) if self.embed_step is not None and steps is not None else None

        h = self.stem(laid_out(F.pixel_unshuffle(x, self.p.stem)))
        skips = []
        for layer in self.down:
            if isinstance(layer, Block):
                h = layer(h, embedding, step_embedding)
                skips.append(h)
            else:
                h = layer(h)
        h = self.middle(h, embedding, step_embedding)
        for layer in self.up:
            if isinstance(layer, Block):
                h = layer(torch.cat([h, skips.pop()], dim=1), embedding, step_embedding)
            else:
                h = layer(F.interpolate(h, scale_factor=2.0))
        return F.pixel_shuffle(self.head(norm_silu(self.norm, h)), self.p.stem)
