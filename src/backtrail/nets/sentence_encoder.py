"""all-MiniLM-L6-v2, a small sentence encoder (Wang et al. 2020, arXiv 2002.10957): what text-to-image nets here read of a caption."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backtrail.errors import UserError
from backtrail.tensors import load_tensors

LENGTH, WIDTH = 16, 384  # tokens of a caption with its two marks, numbers per token
FILES = ("config.json", "tokenizer.json", "model.safetensors")
BATCH = 64  # captions at a time: another number would change last digits


class SentenceEncoder:
    """Captions -> states of their tokens, frozen; `model` is the library's BertModel, `tokenizer` its Tokenizer."""

    def __init__(self, model: nn.Module, tokenizer: Any):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        tokenizer.enable_padding(length=LENGTH)
        tokenizer.no_truncation()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """tokens float32 [n, 16, 384], zero where there is none; mask bool [n, 16], True where there is one; pooled [n, 384], their mean.

        The mean is over all tokens, the marks of beginning and end among them, as the model was trained; it is not normalised.
        Raises UserError for a caption that is longer: cut off, it would say something else.
        """
        encoded = [self.tokenizer.encode(text) for text in texts]
        if long := [text for text, one in zip(texts, encoded, strict=True) if len(one.ids) > LENGTH]:
            raise UserError(f"a caption has at most {LENGTH} tokens, the marks of beginning and end among them; too long: {long[0]!r}")
        ids, mask = (torch.tensor([getattr(one, name) for one in encoded]) for name in ("ids", "attention_mask"))
        batches = zip(ids.split(BATCH), mask.split(BATCH), strict=True)
        states = torch.cat([self.model(input_ids=i, attention_mask=m).last_hidden_state for i, m in batches])
        tokens = states * mask[:, :, None]
        return tokens, mask.bool(), tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True)


def load_sentence_encoder(folder: str | Path) -> SentenceEncoder:
    """The encoder from its three files in `folder`; nothing else is read, and nothing is asked of a hub.

    Raises UserError if a file is absent, if the weights do not fit, or if the library is not installed.
    """
    folder = Path(folder)
    if absent := [name for name in FILES if not (folder / name).is_file()]:
        raise UserError(f"{folder} has no {', '.join(absent)}: run the stage `text-fetch`")
    try:
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel  # imported here: it takes seconds, and suites of pixels do without
    except ImportError:
        raise UserError("captions are encoded with the library transformers: add the extra `latent`") from None
    configuration = BertConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")), attn_implementation="eager")
    model = BertModel(configuration)
    weights, _ = load_tensors(folder / "model.safetensors", digested=False)
    weights.pop("embeddings.position_ids", None)  # 0, 1, 2, ...: older versions of the library stored it
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise UserError(f"{folder}: the weights do not fit the configuration: {str(error).splitlines()[-1].strip()}") from None
    return SentenceEncoder(model, Tokenizer.from_file(str(folder / "tokenizer.json")))
