"""Feature extractors, each named as what it is: a distance in its features carries its name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from backtrail.artifacts import file_digest
from backtrail.errors import UserError
from backtrail.metrics.classifier import load_classifier
from backtrail.nets import classifier, efficientnet, inception


@dataclass(frozen=True)
class Extractor:
    """A fixed function from images to features, and what a reader of a number must know of it.

    network: module, uint8 images [n, C, H, W] -> [n, dimension]; it does its own resizing.
    digest: sha256 of the file with the weights. resize: what happens to an image before the net. dtype: what the net computes in.
    """

    name: str
    digest: str
    dimension: int
    resize: str
    dtype: str
    network: nn.Module

    @property
    def key(self) -> str:
        """The name as a part of a metric's name, for example `fd_efficientnet_lite0`."""
        return self.name.replace("-", "_")

    @torch.inference_mode()
    def features(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """float32 [n, dimension] on the CPU of uint8 images [n, 1 or 3, H, W], computed where the network lies.

        Raises UserError for other images. A batch of another size changes the last digits (2e-6), so it belongs to the protocol.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
            raise UserError(f"{self.name} takes uint8 images [n, 1 or 3, H, W], n > 0; found {images.dtype} {list(images.shape)}")
        device = next(self.network.parameters()).device
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            batches = [self.network(batch.to(device)).float().cpu() for batch in images.split(batch_size)]
        return torch.cat(batches)


def efficientnet_lite0(weights: Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """ImageNet features of EfficientNet-Lite0; the weights come from their package, `weights` is not used.

    Raises UserError if the package's file is absent or another.
    """
    net = efficientnet.pretrained().fold().to(device)
    resize = f"bilinear, antialiased, to {efficientnet.RESIZE}x{efficientnet.RESIZE}, float"
    return Extractor("efficientnet-lite0", efficientnet.SHA256, efficientnet.DIMENSION, resize, "float32", net)


def data_set_classifier(weights: Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """Features of the small classifier that was trained on the data set, read from the file `weights`. Raises UserError."""
    if weights is None:
        raise UserError("the extractor `classifier` needs the file that the stage `classifier` makes; found none")
    net, _ = load_classifier(weights)
    digest = file_digest(weights)
    return Extractor("classifier", digest, classifier.DIMENSION, "none", "float32", net.to(device))


def inception_2015(weights: Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """FID's own features: Inception v3 of 2015-12-05 from its published state dict, the file `weights`. Raises UserError."""
    resize = f"bilinear as TensorFlow 1, to {inception.RESIZE}x{inception.RESIZE}, float"
    net, digest = _inception(weights)
    return Extractor("inception", digest, inception.DIMENSION, resize, "float32", net.to(device))


def inception_clean(weights: Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """The same net on images resized as clean-fid does (mode "clean"), from the file `weights`. Raises UserError."""
    resize = f"bicubic, antialiased, by Pillow, to {inception.RESIZE}x{inception.RESIZE}, float"
    net, digest = _inception(weights)
    return Extractor("inception-clean", digest, inception.DIMENSION, resize, "float32", inception.CleanInception(net).to(device))


def _inception(weights: Path | None) -> tuple[inception.Inception, str]:
    """The folded net and the digest of its file."""
    if weights is None:
        raise UserError("the extractors of Inception need the file that the stage `fetch-inception` brings; found none")
    return inception.read_inception(weights).fold(), file_digest(weights)


EXTRACTORS: dict[str, Callable[..., Extractor]] = {
    "classifier": data_set_classifier,
    "efficientnet-lite0": efficientnet_lite0,
    "inception": inception_2015,
    "inception-clean": inception_clean,
}


def extractor(name: str, weights: Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """The extractor of that name. Raises UserError for an unknown name and for weights that are absent or others."""
    if name not in EXTRACTORS:
        raise UserError(f"unknown feature extractor {name!r}; known: {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name](weights, device)
