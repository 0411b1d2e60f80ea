"""The layers that the EDM networks share (arXiv 2206.00364, Appendix C): embeddings, resampling convolution, residual block.

Modules and parameters carry the names of the released checkpoints, so that a checkpoint loads with `strict=True`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from backtrail.denoiser import Condition
from backtrail.nets.blocks import attention, norm_silu, recomputed
from backtrail.nets.convolution import Convolution, convolution
from backtrail.randomness import Masks, current_masks, dropout


def waves(values: Tensor, n_channels: int, endpoint: bool) -> tuple[Tensor, Tensor]:
    """The sinusoidal code of arXiv 2006.11239: values [B] -> cos [B, n/2] and sin [B, n/2] at wavelengths from 2 pi to 2 pi 10000.

    `endpoint` puts the longest wavelength in (score_sde) or leaves it out (ADM). The frequencies are computed in float32, as when the
    released networks were trained: values reach 999, where the last bit of a frequency is visible in the phase.
    """
    n_waves = n_channels // 2
    exponents = torch.arange(n_waves, dtype=torch.float32, device=values.device) / (n_waves - int(endpoint))
    phases = torch.outer(values, ((1 / 10000) ** exponents).to(values.dtype))
    return phases.cos(), phases.sin()


class FourierFrequencies(nn.Module):
    """Random Fourier features of NCSN++ (arXiv 2011.13456): values [B] -> cos [B, n/2] and sin [B, n/2]."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.register_buffer("freqs", torch.randn(n_channels // 2) * 16)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        phases = torch.outer(values, (2 * math.pi * self.freqs).to(values.dtype))
        return phases.cos(), phases.sin()


def scale_name(img_resolution: int, level: int) -> str:
    """How the checkpoints name a resolution: "32x32" for level 0 of 32 pixels, "16x16" for level 1."""
    return f"{img_resolution >> level}x{img_resolution >> level}"


def one_hot(condition: Condition | None, n_classes: int, n_images: int, like: Tensor) -> Tensor:
    """Class labels as rows of the identity [B, n_classes]; no labels, or the null label `n_classes`, is a row of zeros."""
    if condition is None or condition.labels is None:
        return like.new_zeros(n_images, n_classes)
    return functional.one_hot(condition.labels, n_classes + 1)[:, :n_classes].to(like.dtype)


class ResampleConv2d(nn.Module):
    """A convolution after doubling or halving the resolution with a separable filter: [B, Cin, H, W] -> [B, Cout, 2H or H/2, ...].

    `kernel` 0 resamples only. `fused` convolves before the filter is applied (the residual branch of NCSN++), which differs from the
    usual order at the border.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, up: bool, taps: Sequence[int], fused: bool = False):
        super().__init__()
        self.up, self.kernel, self.fused = up, kernel, fused
        conv = nn.Conv2d(n_in, n_out, kernel) if kernel else None
        self.weight = conv.weight if conv else None
        self.bias = conv.bias if conv else None
        separable = [[a * b / sum(taps) ** 2 for b in taps] for a in taps]
        self.register_buffer("resample_filter", torch.tensor(separable)[None, None])  # [1, 1, taps, taps]

    def forward(self, x: Tensor) -> Tensor:
        pad, margin = self.kernel // 2, (self.resample_filter.shape[-1] - 1) // 2
        if self.fused and not self.up:
            return self._halve(functional.conv2d(x, self.weight, padding=pad + margin), 0) + self.bias[:, None, None]
        x = self._double(x, margin) if self.up else self._halve(x, margin)
        return convolution(x, self.weight, self.bias) if self.kernel else x

    def _double(self, x: Tensor, margin: int) -> Tensor:
        filters = (4 * self.resample_filter).to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return functional.conv_transpose2d(x, filters, groups=x.shape[1], stride=2, padding=margin)

    def _halve(self, x: Tensor, margin: int) -> Tensor:
        filters = self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return functional.conv2d(x, filters, groups=x.shape[1], stride=2, padding=margin)


def group_norm(n_channels: int, eps: float) -> nn.GroupNorm:
    """At most 32 groups and at least 4 channels in each."""
    return nn.GroupNorm(min(32, n_channels // 4), n_channels, eps=eps)


class UNetBlock(nn.Module):
    """Residual block with optional resampling and self-attention (arXiv 2206.00364, Table 7): x [B, Cin, H, W], embedding [B, E].

    adaptive     the embedding scales and shifts after the second norm (ADM) instead of being added before it (DDPM++, NCSN++)
    project      resampled skip connections pass a 1x1 convolution even when the channels agree
    skip_scale   factor after each residual sum
    step         a second affine map, of the step embedding [B, E] of SFD-v (arXiv 2409.19681); its weights start at zero
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_embedding: int,
        *,
        resample: str = "",
        n_heads: int = 0,
        taps: Sequence[int] = (1, 1),
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        adaptive: bool = True,
        project: bool = False,
        step: bool = False,
    ):
        super().__init__()
        self.adaptive, self.skip_scale, self.dropout, self.n_heads = adaptive, skip_scale, dropout, n_heads
        self.layer, self.checkpointed = 0, False
        self.norm0 = group_norm(n_in, eps)
        self.conv0 = _convolution(n_in, n_out, 3, resample, taps)
        self.affine = nn.Linear(n_embedding, n_out * (2 if adaptive else 1))
        self.affine_step = _zeros(nn.Linear(n_embedding, n_out * (2 if adaptive else 1))) if step else None
        self.norm1 = group_norm(n_out, eps)
        self.conv1 = Convolution(n_out, n_out, 3)
        self.skip = _convolution(n_in, n_out, int(project or n_in != n_out), resample, taps) if resample or n_in != n_out else None
        if n_heads:
            self.norm2 = group_norm(n_out, eps)
            self.qkv = Convolution(n_out, 3 * n_out, 1)
            self.proj = Convolution(n_out, n_out, 1)

    def forward(self, x: Tensor, embedding: Tensor, step: Tensor | None = None) -> Tensor:
        return recomputed(self, self._compute, x, embedding, step, current_masks() if self.training else None)

    def _compute(self, x: Tensor, embedding: Tensor, step: Tensor | None, masks: Masks | None) -> Tensor:
        hidden = self._modulate(self.conv0(norm_silu(self.norm0, x)), embedding, step)
        hidden = self.conv1(dropout(hidden, self.dropout if self.training else 0.0, masks, self.layer))
        # In place: no layer's backward pass reads what a convolution gave.
        x = hidden.add_(self.skip(x) if self.skip is not None else x).mul_(self.skip_scale)
        return self.proj(self._attend(self.norm2(x))).add_(x).mul_(self.skip_scale) if self.n_heads else x

    def _modulate(self, hidden: Tensor, embedding: Tensor, step: Tensor | None) -> Tensor:
        """Norm, embedding and SiLU; the step condition acts as the embedding does, after the noise level's."""
        maps = [self.affine(embedding)] + ([self.affine_step(step)] if step is not None else [])
        maps = [m[:, :, None, None].to(hidden.dtype) for m in maps]
        if not self.adaptive:
            return norm_silu(self.norm1, hidden.add_(sum(maps)))
        hidden = self.norm1(hidden)
        for scale, shift in (m.chunk(2, dim=1) for m in maps):
            hidden = torch.addcmul(shift, hidden, scale + 1)
        return functional.silu(hidden)

    def _attend(self, x: Tensor) -> Tensor:
        """softmax(q k / sqrt(d)) v over the pixels; a head's channels hold (q, k, v) interleaved."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(x).reshape(batch, self.n_heads, channels // self.n_heads, 3, height * width)
        return attention(*qkv.unbind(3)).reshape(x.shape)


def _convolution(n_in: int, n_out: int, kernel: int, resample: str, taps: Sequence[int]) -> nn.Module:
    if resample:
        return ResampleConv2d(n_in, n_out, kernel, resample == "up", taps)
    return Convolution(n_in, n_out, kernel)


def _zeros(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
