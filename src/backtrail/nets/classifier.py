"""A small classifier of the data set itself; the features before its last layer are cheap and know this data."""

import torch
from torch import Tensor, nn

DIMENSION = 64


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Classifier(nn.Module):
    """Images uint8 [n, channels, H, W] of any size from 4 pixels up -> 64 features, or logits [n, n_classes]."""

    def __init__(self, channels: int, n_classes: int, width: int):
        super().__init__()
        self.architecture = {"channels": channels, "n_classes": n_classes, "width": width}
        self.body = nn.Sequential(
            convolution(channels, width, 2),
            convolution(width, width),
            convolution(width, 2 * width, 2),
            convolution(2 * width, DIMENSION),
        )
        self.classify = nn.Linear(DIMENSION, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Features float32 [n, 64]: the mean over pixels of the last convolution."""
        x = images.float() / 127.5 - 1
        return self.body(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))

    def logits(self, images: Tensor) -> Tensor:
        return self.classify(self(images))
