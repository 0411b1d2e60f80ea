"""Two small convolutional nets that judge images of text-to-image models: which garment in which colour, and how well a caption fits."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from backtrail.nets.classifier import DIMENSION, convolution


class Tower(nn.Module):
    """Images uint8 [n, 3, H, W] -> features [n, 64]: the mean over pixels of the last of four convolutions."""

    def __init__(self, width: int):
        super().__init__()
        self.architecture: dict[str, int] = {"width": width}
        self.body = nn.Sequential(
            convolution(3, width, 2), convolution(width, width), convolution(width, 2 * width, 2), convolution(2 * width, DIMENSION)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = images.float() / 127.5 - 1
        return self.body(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))


class Judge(Tower):
    """A tower with two heads."""

    def __init__(self, width: int, garments: int, colours: int):
        super().__init__(width)
        self.architecture |= {"garments": garments, "colours": colours}
        self.garment, self.colour = nn.Linear(DIMENSION, garments), nn.Linear(DIMENSION, colours)

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of the garment [n, garments] and of its colour [n, colours]."""
        features = self(images)
        return self.garment(features), self.colour(features)


class CaptionTower(Tower):
    """A tower into the space of a text encoder's vectors, of which it says the direction alone."""

    def __init__(self, width: int, text_width: int):
        super().__init__(width)
        self.architecture |= {"text_width": text_width}
        self.project = nn.Linear(DIMENSION, text_width)

    def directions(self, images: Tensor) -> Tensor:
        """Unit vectors [n, text_width]."""
        return functional.normalize(self.project(self(images)), dim=1)
