"""CLIP scores through open_clip, by named conventions that cannot be compared with each other: model, training, prefix, crop and factor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from backtrail.artifacts import file_digest
from backtrail.data.real_images import prepared_made
from backtrail.errors import UserError
from backtrail.nets.weights import check_numbers, misfit
from backtrail.parameters.latent import ClipScore
from backtrail.tensors import load_tensors

CURE = "fetch it again"


class ClipModel:
    """A model of open_clip with its own preparation of images and its tokenizer, weights from a file of safetensors.

    Raises UserError if open_clip is not installed, does not know the model, or would fetch its tokenizer; or if the weights do not fit.
    """

    def __init__(self, p: ClipScore, folder: str | Path, device: torch.device | str = "cpu"):
        library = _open_clip()
        if p.model not in library.list_models():
            raise UserError(f"evaluation.clip: open_clip knows no model {p.model!r}: see open_clip.list_models()")
        text = library.get_model_config(p.model)["text_cfg"]
        if "hf_tokenizer_name" in text or "hf_model_name" in text:
            raise UserError(f"evaluation.clip: the tokenizer of {p.model} would be fetched by the library: choose a model with CLIP's own")
        self.p, self.path, self.device = p, Path(folder) / p.weights, torch.device(device)
        model = library.create_model(p.model, load_weights=False, device="cpu")
        weights, _ = load_tensors(self.path, digested=False)
        if found := misfit(model.state_dict(), weights):
            raise UserError(f"{self.path} does not fit {p.model} ({found}): {CURE}")
        check_numbers(model.state_dict(), weights, self.path, CURE)
        model.load_state_dict(weights, strict=True)
        self.model = model.eval().requires_grad_(False).to(self.device)
        of_images = model.visual.preprocess_cfg
        self.transform = library.image_transform(of_images["size"], is_train=False, mean=of_images["mean"], std=of_images["std"])
        self.tokenizer = library.get_tokenizer(p.model)

    @torch.inference_mode()
    def cosines(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """float64 [n] of images uint8 [n, 3, H, W] and their captions."""
        pixels = prepared_made(images.numpy(), self.p.images)
        x = torch.stack([self.transform(Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))) for image in pixels])
        words = self.tokenizer([f"{self.p.prefix} {caption}".strip() for caption in captions])
        of_images = functional.normalize(self.model.encode_image(x.to(self.device)), dim=1)
        of_texts = functional.normalize(self.model.encode_text(words.to(self.device)), dim=1)
        return (of_images.double() * of_texts.double()).sum(dim=1).cpu()

    def protocol(self) -> dict[str, Any]:
        """What stands beside the value."""
        settings = self.p.model_dump(mode="json", include={"prefix", "factor", "images", "clamped"})
        about = {"extractor": f"open_clip {self.p.model}, {self.p.trained_on}", "extractor_sha256": file_digest(self.path)}
        return {"metric": self.p.name, **about, "n_images": self.p.n_images, "settings": settings}


def score(cosines: Tensor, p: ClipScore) -> float:
    """The value of a convention from the cosines of the first images."""
    value = p.factor * cosines[: p.n_images].mean().item()
    return max(value, 0.0) if p.clamped else value


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise UserError(
            "CLIP scores need the package open-clip-torch, which is not installed: install it, or leave evaluation.clip out"
        ) from None
    return open_clip
