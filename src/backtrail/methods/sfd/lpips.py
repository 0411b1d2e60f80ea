"""LPIPS with VGG16 (Zhang et al. 2018, arXiv 1801.03924), the perceptual part of the loss of SFD's last step.

The weights are supplied by hand, as one safetensors file: torchvision's VGG16 (`features.0.weight` ... `features.28.bias`) and the five
linear layers of LPIPS 0.1 (`lin0.weight` ... `lin4.weight`, [1, C, 1, 1]). The authors' code uses a package whose LPIPS has average for
maximum pooling, and gives it images in [-1, 1] where it expects [0, 1]; this is LPIPS as published.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backtrail.artifacts import file_digest
from backtrail.errors import UserError
from backtrail.tensors import load_tensors

VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)  # channels of the convolutions
TAPS = (3, 8, 15, 22, 29)  # the ReLU layers of VGG16 whose outputs are compared
CHANNELS = (64, 128, 256, 512, 512)
SIZE = 224  # pixels per side that images are brought to, as in the authors' code


class LPIPS(nn.Module):
    """Distance of images x, y [B, 1 or 3, H, W] in [-1, 1] -> [B], at least 0."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for item in VGG16:
            if item == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(width, int(item), 3, padding=1), nn.ReLU()]
                width = int(item)
        self.features = nn.Sequential(*layers)
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
    """LPIPS with the weights in `file`, frozen. Raises UserError if the file is absent, has another digest or other tensors."""
    try:
        found = file_digest(file)
    except FileNotFoundError:
        raise UserError(f"the LPIPS weights {file} are missing: put the file there, or take the loss l1") from None
    if found != sha256:
        raise UserError(f"the LPIPS weights {file} have sha256 {found}, params.yaml expects {sha256}: get the file again")
    lpips = LPIPS()
    try:
        lpips.load_state_dict(load_tensors(file, digested=False)[0], strict=True)
    except RuntimeError as error:
        raise UserError(f"{file} does not hold LPIPS's weights: {str(error).splitlines()[-1].strip()}") from None
    return lpips.eval().requires_grad_(False)
