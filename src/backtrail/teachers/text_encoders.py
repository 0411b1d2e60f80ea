"""The text encoders of Stable Diffusion and SDXL, read by the transformers library: captions to what a denoiser is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backtrail.artifacts import load_json
from backtrail.conditions import Condition
from backtrail.data.diffusers_folder import CONFIG, TRANSFORMER, find_weights
from backtrail.errors import UserError
from backtrail.teachers.described import check_weights

ADAPTER = "adapter_config.json"  # of peft; the library heeds one that lies beside the weights
KINDS = ("CLIPTextModel", "CLIPTextModelWithProjection")


@dataclass(frozen=True)
class Encoder:
    """One text encoder and the tokenizer that belongs to it: they pad differently, SDXL's second by "!"."""

    tokenizer: Any
    model: nn.Module

    def __call__(self, captions: Sequence[str]) -> Any:
        """What the library's model says of captions, cut to the length that it knows; no attention mask, as in the pipelines."""
        longest = self.tokenizer.model_max_length
        ids = self.tokenizer([*captions], padding="max_length", max_length=longest, truncation=True, return_tensors="pt").input_ids
        return self.model(ids.to(self.model.device), output_hidden_states=True)


@dataclass(frozen=True)
class TextEncoder:
    """One encoder (Stable Diffusion) or two (SDXL)."""

    encoders: tuple[Encoder, ...]

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Condition:
        """Of each caption tokens [B, 77, D]; of two encoders a pooled vector too, the projected one of the second.

        One encoder says its last state, after the final norm; of two the states before the last are joined (arXiv 2307.01952).
        """
        said = [encoder(captions) for encoder in self.encoders]
        if len(said) == 1:
            return Condition(tokens=said[0].last_hidden_state)
        return Condition(tokens=torch.cat([s.hidden_states[-2] for s in said], dim=-1), pooled=said[1].text_embeds)

    def null(self, zeros: bool) -> Condition:
        """The condition of guidance's other branch: the encoding of "" (Stable Diffusion), or zeros in its place (SDXL)."""
        empty = self([""])
        return Condition(**{name: torch.zeros_like(value) for name, value in empty.told.items()}) if zeros else empty


def import_text(folder: str | Path) -> TextEncoder:
    """The text encoders of a pipeline's folder: `text_encoder/` and `tokenizer/`, and the same with `_2` where they are there.

    Float32, eval mode, no gradients, on the CPU; safetensors alone, nothing is executed or downloaded. Raises UserError if one is missing,
    is none of CLIP's, or if any weight is missing, left over or of another shape.
    """
    root = Path(folder)
    parts = [part for part in ("", "_2") if (root / f"text_encoder{part}").is_dir()]
    encoders = tuple(Encoder(_tokenizer(root / f"tokenizer{part}"), _model(root / f"text_encoder{part}")) for part in parts)
    kinds = tuple(type(encoder.model).__name__ for encoder in encoders)
    if (parts, kinds) not in (([""], KINDS[:1]), (["", "_2"], KINDS)):
        raise UserError(
            f"{root} has the text encoders {', '.join(kinds) or 'none'}: expected text_encoder/ of a {KINDS[0]}, alone or with "
            f"text_encoder_2/ of a {KINDS[1]}"
        )
    return TextEncoder(encoders)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError("text encoders need the package transformers, which is not installed: add the extra `latent`") from None
    return transformers


def _model(folder: Path) -> nn.Module:
    transformers = _transformers()
    described = load_json(folder / CONFIG)
    named = described.get("architectures") if isinstance(described, dict) else None
    kind = named[0] if isinstance(named, list) and len(named) == 1 else None
    if kind not in KINDS:
        raise UserError(f"{folder / CONFIG} describes no {' or '.join(KINDS)}: expected a text encoder of CLIP")
    library, found = getattr(transformers, kind), find_weights(folder, TRANSFORMER)
    if not found.is_safe:
        raise UserError(f"{folder} holds no safetensors: text encoders are read from those alone")
    if (folder / ADAPTER).exists():
        raise UserError(f"{folder} holds {ADAPTER}, by which the library would change the weights: take the adapter away")
    check_weights(found, lambda values: library(transformers.CLIPTextConfig.from_dict(values)))
    options = {"local_files_only": True, "use_safetensors": True, "variant": found.variant, "dtype": torch.float32}
    transformers.utils.logging.disable_progress_bar()
    try:
        model, loaded = library.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # the library raises whatever its file readers do
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} cannot be read by transformers ({type(error).__name__}: {reason}): fetch it again") from None
    for wrong, names in loaded.items():
        if names := [name for name in names if not str(name).endswith("position_ids")]:
            raise UserError(f"{folder} does not fit its config.json ({wrong.replace('_', ' ')}: {str(sorted(map(str, names))[0])[:100]})")
    return model.eval().requires_grad_(False)


def _tokenizer(folder: Path) -> Any:
    transformers = _transformers()
    try:
        return transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} cannot be read as CLIP's tokenizer ({type(error).__name__}: {reason}): fetch it again") from None
