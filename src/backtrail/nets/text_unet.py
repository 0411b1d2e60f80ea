"""A small text-to-image U-Net of discrete time: cross-attention to a text's tokens at every level, and SDXL's conditions beside it.

The pooled text and the micro-conditioning are added to the embedding of time, as SDXL does (arXiv 2307.01952): the concatenation of the
vector and the sinusoids of the six numbers, through two layers. There is no pixel-unshuffle stem: latents are small as they are.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from backtrail.conditions import Condition
from backtrail.denoiser import NetDenoiser
from backtrail.nets.blocks import Net, laid_out, norm_silu, number_layers
from backtrail.nets.convolution import Convolution
from backtrail.nets.discrete_time import DiscreteTime, DiscreteTimeDenoiser
from backtrail.nets.unet import Block, StepCondition, sinusoidal, zero_
from backtrail.parameters.net import TextUNetParameters

TIME_IDS = 6


class CrossAttention(nn.Module):
    """Attention of the pixels to the tokens of a text, residual, started at zero: x [B, C, H, W], tokens [B, L, D] -> [B, C, H, W]."""

    def __init__(self, channels: int, token_width: int, head_width: int):
        super().__init__()
        self.heads = max(channels // head_width, 1)
        self.norm, self.query = nn.GroupNorm(8, channels), Convolution(channels, channels, 1)
        self.key_value = nn.Linear(token_width, 2 * channels, bias=False)
        self.out = Convolution(channels, channels, 1)
        zero_(self.out)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """mask: bool [B, L], True where a token is attended to; None is all of them."""
        q = self.query(self.norm(x)).flatten(2).mT  # [B, H W, C]
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, *self.key_value(tokens).chunk(2, dim=2)))
        attended = functional.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None])
        return x + self.out(laid_out(attended.transpose(1, 2).flatten(2).mT.reshape(x.shape)))


class TextBlock(nn.Module):
    """A residual block with self-attention, then attention to the text."""

    def __init__(self, c_in: int, c_out: int, c_embedding: int, p: TextUNetParameters):
        super().__init__()
        self.block = Block(c_in, c_out, c_embedding, p.dropout, True, p.step_condition)
        self.text = CrossAttention(c_out, p.token_width, p.head_width)

    def forward(self, x: Tensor, embedding: Tensor, step_embedding: Tensor | None, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return self.text(self.block(x, embedding, step_embedding), tokens, mask)


class TextUNet(Net):
    """F(x_t [B, C, H, W], t [B], condition) -> [B, C, H, W]; the condition has tokens, pooled and time ids; see `TextUNetParameters`."""

    def __init__(self, p: TextUNetParameters):
        super().__init__((p.image_channels, p.resolution, p.resolution), 0, p.step_condition)
        self.p = p
        width, c_embedding = p.channels[0], 4 * p.channels[0]
        self.embed_time = nn.Sequential(nn.Linear(width, c_embedding), nn.SiLU(), nn.Linear(c_embedding, c_embedding))
        told = p.pooled_width + TIME_IDS * width
        self.embed_text = nn.Sequential(nn.Linear(told, c_embedding), nn.SiLU(), nn.Linear(c_embedding, c_embedding))
        self.embed_step = StepCondition(c_embedding) if p.step_condition else None

        self.stem = Convolution(p.image_channels, width, 3)
        self.down, skips = nn.ModuleList(), []
        for level, channels in enumerate(p.channels):
            for _ in range(p.blocks):
                self.down.append(TextBlock(width, channels, c_embedding, p))
                width = channels
                skips.append(width)
            if level < len(p.channels) - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.middle = TextBlock(width, width, c_embedding, p)
        self.up = nn.ModuleList()
        for level, channels in reversed(list(enumerate(p.channels))):
            for _ in range(p.blocks):
                self.up.append(TextBlock(width + skips.pop(), channels, c_embedding, p))
                width = channels
            if level > 0:
                self.up.append(Convolution(width, width, 3))
        self.norm, self.head = nn.GroupNorm(8, width), Convolution(width, p.image_channels, 3)
        zero_(self.head)
        number_layers(self, Block)

    def forward(self, x: Tensor, time: Tensor, condition: Condition | None = None) -> Tensor:
        told = condition or Condition()
        if told.tokens is None or told.pooled is None or told.time_ids is None:
            raise ValueError(f"this network is told tokens, pooled and time_ids; found {', '.join(told.told) or 'nothing'}")
        sizes = sinusoidal(told.time_ids.flatten(), self.p.channels[0]).reshape(len(x), -1)
        text = torch.cat([told.pooled, sizes], dim=1)
        embedding = functional.silu(self.embed_time(sinusoidal(time, self.p.channels[0])) + self.embed_text(text))
        steps = self.embed_step(told.steps) if self.embed_step is not None and told.steps is not None else None
        also = embedding, steps, told.tokens, told.mask

        h = self.stem(laid_out(x))
        skips = []
        for layer in self.down:
            if isinstance(layer, TextBlock):
                h = layer(h, *also)
                skips.append(h)
            else:
                h = layer(h)
        h = self.middle(h, *also)
        for layer in self.up:
            h = layer(torch.cat([h, skips.pop()], dim=1), *also) if isinstance(layer, TextBlock) else layer(_doubled(h))
        return self.head(norm_silu(self.norm, h))


def _doubled(x: Tensor) -> Tensor:
    """Each pixel four times, [B, C, H, W] -> [B, C, 2 H, 2 W]."""
    return functional.interpolate(x, scale_factor=2.0)


class TextUNetTeacher(DiscreteTime):
    """All that is needed, beside the weights, to build such a denoiser again."""

    format: Literal["text"] = "text"
    net: TextUNetParameters = Field(TextUNetParameters(), description="The net.")


def build(configuration: TextUNetTeacher) -> NetDenoiser:
    """A denoiser with new weights; under `torch.device("meta")` without any."""
    return DiscreteTimeDenoiser(TextUNet(configuration.net), configuration)
