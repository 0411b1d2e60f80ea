"""LPIPS with VGG16 (Zhang et al. 2018, arXiv 1801.03924), the perceptual part of the loss of SFD's last step.

VGG16's weights are supplied by hand, torchvision's file as it is published; the linear layers of LPIPS 0.1 lie in the authors' package
`lpips`. The released code of SFD uses a package whose LPIPS has average for maximum pooling, and gives it images in [-1, 1] where [0, 1]
is expected; this is LPIPS as published. The authors' own class makes all of VGG16 by a deprecated argument and fills it at random: here are
torchvision's layers, and a test holds them against that class.
"""

import hashlib
import io
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backtrail.artifacts import file_digest
from backtrail.errors import UserError

TAPS = (3, 8, 15, 22, 29)  # the ReLU layers of VGG16 whose outputs are compared
CHANNELS = (64, 128, 256, 512, 512)
SIZE = 224  # pixels per side that images are brought to, as in the authors' code
LINEAR = "weights/v0.1/vgg.pth"  # in the package
LINEAR_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"


class LPIPS(nn.Module):
    """Distance of images x, y [B, 1 or 3, H, W] in [-1, 1] -> [B], at least 0. Made without weights: `load_lpips` brings them."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import vgg16  # here: it takes longer to load than torch, and only this loss needs it

        with torch.device("meta"):
            self.features = vgg16(weights=None).features[: TAPS[-1] + 1]
            for layer, channels in enumerate(CHANNELS):
                self.add_module(f"lin{layer}", nn.Conv2d(channels, 1, 1, bias=False))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        total = torch.zeros(len(x), device=x.device)
        for layer, (of_x, of_y) in enumerate(zip(self._taps(x), self._taps(y), strict=True)):
            total = total + self.get_submodule(f"lin{layer}")((of_x - of_y) ** 2).mean(dim=(1, 2, 3))
        return total

    def _taps(self, images: Tensor) -> list[Tensor]:
        """Unit-normed features at each tap."""
        h = F.interpolate(images.expand(-1, 3, -1, -1), size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        h, kept = (h - self.shift) / self.scale, []
        for index, layer in enumerate(self.features):
            h = layer(h)
            if index in TAPS:
                kept.append(h / (h.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return kept


def load_lpips(file: str, sha256: str) -> LPIPS:
    """LPIPS with VGG16's weights from `file`, frozen. Raises UserError if the file is absent, has another digest or other tensors."""
    try:
        found = file_digest(file)
    except FileNotFoundError:
        raise UserError(f"VGG16's weights {file} are missing: put the file there, or take the loss l1") from None
    if found != sha256:
        raise UserError(f"VGG16's weights {file} have sha256 {found}, params.yaml expects {sha256}: get the file again")
    lpips = LPIPS()
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        convolutions = {name: value for name, value in weights.items() if name.startswith("features.")}
        lpips.load_state_dict(convolutions | linear_layers(), strict=True, assign=True)
    except UserError:
        raise
    except Exception as error:  # the reader raises whatever a broken file makes it
        raise UserError(f"{file} does not hold VGG16's weights: {str(error).splitlines()[-1].strip()}") from None
    return lpips.eval().requires_grad_(False)


def linear_layers() -> dict[str, Tensor]:
    """lin0.weight ... lin4.weight, [1, C, 1, 1], from the package `lpips`. Raises UserError if its file is absent or another."""
    package = find_spec("lpips")  # not imported: it would load plotting and all of its networks
    file = Path(package.submodule_search_locations[0]) / LINEAR if package and package.submodule_search_locations else Path(LINEAR)
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != LINEAR_SHA256:
        raise UserError(f"the package `lpips` has no {LINEAR} of LPIPS 0.1, or another: install version 0.1.4 of it again")
    layers = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return {name.replace(".model.1", ""): value for name, value in layers.items()}
