"""Inception v3 of 2015-12-05, the features of FID (Szegedy et al. 2015, arXiv 1512.00567; Heusel et al. 2017, arXiv 1706.08500).

Written from the published graph; modules carry the names of its published state dict, so that it loads with strict=True. The graph
departs from the paper in ways that a FID depends on: means over 3x3 pixels leave the border's padding out, the last block takes a maximum
there, batch normalisation has epsilon 1e-3, and images are resized by TensorFlow 1's bilinear rule (no half-pixel shift, no antialiasing).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from cleanfid.resize import build_resizer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backtrail.errors import UserError

DIMENSION = 2048
RESIZE = 299  # pixels per side

Kernel = int | tuple[int, int]
Layer = tuple[int, Kernel]  # output channels, kernel; the kernel "split" is 1x3 beside 3x1
SPLIT = (0, 0)

A = {"branch1x1": [(64, 1)], "branch5x5": [(48, 1), (64, 5)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}
B = {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}
D = {"branch3x3": [(192, 1), (320, 3)], "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]}
E = {"branch1x1": [(320, 1)], "branch3x3": [(384, 1), (384, SPLIT)], "branch3x3dbl": [(448, 1), (384, 3), (384, SPLIT)]}


def _seven(n: int) -> dict[str, list[Layer]]:
    """The branches with 7x7 convolutions factored into 1x7 and 7x1, `n` channels inside."""
    wide, high = (1, 7), (7, 1)
    double = [(n, 1), (n, high), (n, wide), (n, high), (192, wide)]
    return {"branch1x1": [(192, 1)], "branch7x7": [(n, 1), (n, wide), (192, high)], "branch7x7dbl": double}


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padding: int | tuple[int, int] = 0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3)

    def linear(self, x: Tensor) -> Tensor:
        """What comes before the ReLU."""
        return self.bn(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.linear(x), inplace=True)

    def fold(self) -> None:
        """Put the batch normalisation's fixed statistics into the convolution's weight and bias."""
        self.conv, self.bn = fuse_conv_bn_eval(self.conv, self.bn), nn.Identity()


class Mixed(nn.Module):
    """Branches of convolutions and one of pooling over 3x3 pixels, side by side: [n, inputs, H, W] -> [n, outputs, H', W'].

    A branch of several layers numbers them from 1, a split layer has a part a and a part b. pool: mean or max (then a convolution to
    `n_pool` channels), or halve, with which the last layer of every branch halves the resolution too.
    """

    def __init__(self, inputs: int, branches: dict[str, list[Layer]], pool: Literal["mean", "max", "halve"], n_pool: int = 0):
        super().__init__()
        self.pool = pool
        self.branches: list[list[list[str]]] = []  # names of the parts of the layers of the branches
        self.outputs = n_pool or inputs
        for name, layers in branches.items():
            chain, n = [], inputs
            for index, (outputs, kernel) in enumerate(layers, start=1):
                stem = name if len(layers) == 1 else f"{name}_{index}"
                parts = {f"{stem}a": (1, 3), f"{stem}b": (3, 1)} if kernel == SPLIT else {stem: kernel}
                last = index == len(layers)
                for part, size in parts.items():
                    self.add_module(part, _convolution(n, outputs, size, halve=pool == "halve" and last))
                chain.append(list(parts))
                n = outputs * len(parts)
            self.branches.append(chain)
            self.outputs += n
        self.branch_pool = ConvNorm(inputs, n_pool, 1) if n_pool else None

    def forward(self, x: Tensor) -> Tensor:
        results = []
        for chain in self.branches:
            h = x
            for parts in chain:
                made = [self.get_submodule(part)(h) for part in parts]
                h = made[0] if len(made) == 1 else torch.cat(made, dim=1)
            results.append(h)
        return torch.cat([*results, self._pooled(x)], dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.branch_pool is None:
            return functional.max_pool2d(x, 3, stride=2)
        if self.pool == "max":
            return self.branch_pool(functional.max_pool2d(x, 3, stride=1, padding=1))
        # A mean of 1x1 convolutions is the convolution of the mean, over fewer channels.
        return functional.relu(functional.avg_pool2d(self.branch_pool.linear(x), 3, 1, 1, count_include_pad=False), inplace=True)


def _convolution(inputs: int, outputs: int, kernel: Kernel, halve: bool) -> ConvNorm:
    """The same resolution, or half of it without padding."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    if halve:
        return ConvNorm(inputs, outputs, (height, width), stride=2)
    return ConvNorm(inputs, outputs, (height, width), padding=(height // 2, width // 2))


class Inception(nn.Module):
    """Images uint8 [n, 1 or 3, H, W] -> features [n, 2048]: TF-1 bilinear to 299x299, net, mean over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        n = 192
        for name, branches, pool, n_pool in (
            ("Mixed_5b", A, "mean", 32),
            ("Mixed_5c", A, "mean", 64),
            ("Mixed_5d", A, "mean", 64),
            ("Mixed_6a", B, "halve", 0),
            ("Mixed_6b", _seven(128), "mean", 192),
            ("Mixed_6c", _seven(160), "mean", 192),
            ("Mixed_6d", _seven(160), "mean", 192),
            ("Mixed_6e", _seven(192), "mean", 192),
            ("Mixed_7a", D, "halve", 0),
            ("Mixed_7b", E, "mean", 192),
            ("Mixed_7c", E, "max", 192),
        ):
            block = Mixed(n, branches, pool, n_pool)
            self.add_module(name, block)
            n = block.outputs
        self.fc = nn.Linear(DIMENSION, 1008)  # in the published file; features do not use it

    def forward(self, images: Tensor) -> Tensor:
        return self.pooled(prepare(resize(images.float(), (RESIZE, RESIZE))))

    def pooled(self, x: Tensor) -> Tensor:
        """The 2048 features of prepared images x [n, 3, 299, 299]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, stride=2)))
        x = functional.max_pool2d(x, 3, stride=2)
        for name, block in self.named_children():
            x = block(x) if name.startswith("Mixed") else x
        return x.mean((2, 3))

    def fold(self) -> "Inception":
        """Fold every batch normalisation and lay the weights out as channels_last, in place: the same numbers, sooner."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return self.to(memory_format=torch.channels_last)


class CleanInception(nn.Module):
    """The same net behind clean-fid's own resizing (arXiv 2104.11222): Pillow's antialiased bicubic to 299x299, in float, not rounded."""

    def __init__(self, net: Inception):
        super().__init__()
        self.net = net
        self.resize = build_resizer("clean")

    def forward(self, images: Tensor) -> Tensor:
        channels_last = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()  # [n, H, W, 3]
        resized = torch.from_numpy(np.stack([self.resize(image) for image in channels_last]))
        return self.net.pooled(prepare(resized.permute(0, 3, 1, 2).to(images.device)))


def prepare(x: Tensor) -> Tensor:
    """float [n, 1 or 3, 299, 299] in [0, 255] -> [n, 3, 299, 299] in [-1, 1), (x - 128) / 128; grey becomes three equal channels."""
    return ((x - 128) / 128).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """TensorFlow 1's bilinear resize of float [n, C, H, W]: pixel i of the result lies at i * (old size / new size) of the old image."""
    for dim, new in zip((3, 2), size[::-1], strict=True):
        old = x.shape[dim]
        # The places are float32 products, as in the published graph.
        place = torch.arange(new, dtype=torch.float32, device=x.device) * torch.tensor(old / new, dtype=torch.float32)
        low = place.long()
        share = (place - low).reshape(-1, *[1] * (3 - dim)).to(x.dtype)
        below, above = x.index_select(dim, low), x.index_select(dim, (low + 1).clamp_max(old - 1))
        x = below + (above - below) * share
    return x


def read_inception(path: str | Path) -> Inception:
    """The net with the published weights, in eval mode, not folded. The reader of the file builds tensors and nothing else.

    Raises UserError if the file is absent or is no state dict of this net.
    """
    cure = "run the stage `fetch-inception` again"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {cure}") from None
    except Exception as error:  # the reader raises whatever a broken file makes it
        raise UserError(f"{path} is no file of plain weights ({type(error).__name__}): {cure}") from None
    net = Inception()
    try:
        net.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not fit Inception v3 of 2015-12-05 ({str(error).splitlines()[-1].strip()[:200]}): {cure}") from None
    return net.eval().requires_grad_(False)
