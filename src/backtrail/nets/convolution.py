"""Convolutions of 3x3 on a CPU by Winograd's algorithm F(4x4, 3x3) (Lavin & Gray, arXiv 1509.09308): a quarter of the multiplications.

An image is cut into tiles of 6x6 that overlap by two. A tile and the weights are transformed, multiplied value by value (one matrix product
over the channels for each of the 36 values), and transformed back to 4x4 pixels. With m the matrices below and (*) the product by value:

    y = A^T [ (G w G^T) (*) (B^T x B) ] A                 the convolution; its gradient in x is one with w turned by 180 degrees
    dw = G^T [ sum over tiles of (A dy A^T) (*) (B^T x B) ] G

The sums are the direct ones in another order: in float32 the error is twice that of torch's own convolution.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

# Where the polynomials are evaluated, beside infinity. In float32 these err by 1.1e-6 (relative), the usual (0, 1, -1, 2, -2) by 2.4e-6.
POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)
TILE, STEP = 6, 4  # pixels of a tile, pixels between two
LEAST_CHANNELS = 96  # with fewer the transforms cost more than they save
LEAST_PIXELS = 256  # of an image; with fewer the weights' transform does
CHUNK = 1 << 13  # tiles x channels that are worked on at once: what stays in a core's cache


class Convolution(nn.Conv2d):
    """torch's convolution with "same" padding, by the faster algorithm where it is one: [B, Cin, H, W] -> [B, Cout, H, W]."""

    def __init__(self, n_in: int, n_out: int, kernel: int):
        super().__init__(n_in, n_out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return convolution(x, self.weight, self.bias)


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [B, Cin, H, W] convolved with weight [Cout, Cin, k, k] (k odd) and zeros around it -> [B, Cout, H, W]."""
    if winograd_pays(x, weight):
        return Winograd.apply(x, weight, bias)
    return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def winograd_pays(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution is computed by Winograd's algorithm: in float32 on a CPU, uncompiled, by an image's size and the channels.

    Not by the number of images, so that each is computed in the same way however a batch is divided.
    """
    _, channels, height, width = x.shape
    large = min(channels, len(weight)) >= LEAST_CHANNELS and height * width >= LEAST_PIXELS
    fits = weight.shape[-1] == 3 and height % STEP == 0 == width % STEP
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return large and fits and plain and not torch.compiler.is_compiling()


class Winograd(torch.autograd.Function):
    """A 3x3 convolution, padding 1, of an image whose sides are multiples of 4; the result has its channels last in memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolved(x, _of_weights(weight, turned=False).mT, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _convolved(gradient, _of_weights(weight, turned=True), None) if for_x else None,
            _weight_gradient(x, gradient) if for_weight else None,
            gradient.sum((0, 2, 3)) if for_bias else None,
        )


def _convolved(x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """x [B, Cin, H, W], transformed weights [36, Cin, Cout] -> [B, Cout, H, W]."""
    y = torch.empty(len(x), weights.shape[2], *x.shape[2:], dtype=x.dtype, memory_format=torch.channels_last)
    x, parts, back = x.permute(0, 2, 3, 1).contiguous(), _parts(y), _matrices(x)["At"]
    for rows, tiles in _tiles(x, len(y[0])):
        into = parts[rows].permute(2, 4, 0, 1, 3, 5)
        pixels = (back @ torch.bmm(tiles, weights).flatten(1)).reshape(into.shape)
        if bias is None:
            into.copy_(pixels)
        else:
            torch.add(pixels, bias, out=into)
    return y


def _weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Of the weights [Cout, Cin, 3, 3] from x [B, Cin, H, W] and the gradient of the result [B, Cout, H, W]."""
    x, parts, matrices, n_out = x.permute(0, 2, 3, 1).contiguous(), _parts(gradient), _matrices(x), gradient.shape[1]
    total = x.new_zeros(TILE**2, n_out, x.shape[3])
    for rows, tiles in _tiles(x, n_out):
        pixels = parts[rows].permute(2, 4, 0, 1, 3, 5).reshape(STEP**2, -1)
        total.baddbmm_((matrices["At"].mT @ pixels).reshape(TILE**2, -1, n_out).mT, tiles)
    return (total.flatten(1).mT @ matrices["G"]).reshape(n_out, -1, 3, 3)


def _parts(y: Tensor) -> Tensor:
    """An image [B, C, H, W] by the 4x4 pixels of each tile, [B, H/4, 4, W/4, 4, C]: a view where the channels lie last."""
    batch, channels, height, width = y.shape
    return y.permute(0, 2, 3, 1).contiguous().view(batch, height // STEP, STEP, width // STEP, STEP, channels)


def _tiles(x: Tensor, n_out: int) -> Iterator[tuple[slice, Tensor]]:
    """B^T x B of each tile, of some images [B, H, W, C] at a time: their rows, [36, tiles, C]."""
    batch, height, width, channels = x.shape
    size = max(1, CHUNK * STEP**2 // (height * width * max(channels, n_out)))
    padded = x.new_zeros(min(size, batch), height + 2, width + 2, channels)
    for first in range(0, batch, size):
        some = x[first : first + size]
        around = padded[: len(some)]
        around[:, 1:-1, 1:-1] = some
        tiles = around.unfold(1, TILE, STEP).unfold(2, TILE, STEP).permute(4, 5, 0, 1, 2, 3).reshape(TILE**2, -1)
        yield slice(first, first + size), (_matrices(x)["Bt"] @ tiles).reshape(TILE**2, -1, channels)


def _of_weights(weight: Tensor, turned: bool) -> Tensor:
    """G w G^T: [Cout, Cin, 3, 3] -> [36, Cout, Cin], of the weights as they are or turned by 180 degrees."""
    matrix = _matrices(weight)["G"]
    return ((matrix.flip(1) if turned else matrix) @ weight.reshape(-1, 9).mT).reshape(TILE**2, *weight.shape[:2])


def _transforms() -> dict[str, Tensor]:
    """The matrices of both dimensions at once, float64: Bt [36, 36], G [36, 9], At [16, 36].

    A product of polynomials is interpolated from its values at six points (Toom and Cook); turned round, that is a correlation. With V_k
    the powers 0 ... k - 1 of the points (of infinity the highest alone): G = V_3, A = V_4, B = V_6^-1.
    """

    def powers(k: int) -> np.ndarray:
        return np.vstack([np.vander(POINTS, k, increasing=True), np.eye(k)[-1]])

    found = {"Bt": np.linalg.inv(powers(TILE)).T, "G": powers(3), "At": powers(STEP).T}
    return {name: torch.from_numpy(np.kron(matrix, matrix)) for name, matrix in found.items()}


TRANSFORMS = {dtype: {name: matrix.to(dtype) for name, matrix in _transforms().items()} for dtype in (torch.float32, torch.float64)}


def _matrices(like: Tensor) -> dict[str, Tensor]:
    return TRANSFORMS[like.dtype]
