"""Captions as a text encoder sees them, each distinct one once, in one file; and the conditions that are made of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from backtrail.conditions import Condition
from backtrail.errors import UserError
from backtrail.nets.sentence_encoder import SentenceEncoder
from backtrail.parameters.text import NullText
from backtrail.tensors import load_tensors, save_tensors

EMPTY = ""  # the caption of the unconditional branch, as in Stable Diffusion 1 and 2


@dataclass(frozen=True)
class CaptionArchive:
    """Encodings of `texts`, which are distinct and hold the empty one.

    tokens: float32 [n, L, D]. mask: bool [n, L], True where there is a token. pooled: float32 [n, P]. encoder: sha256 of its weights.
    """

    texts: tuple[str, ...]
    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    encoder: str

    @cached_property
    def _row(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.texts)}

    def rows(self, texts: Iterable[str]) -> Tensor:
        """Where captions stand, int64 [n]. Raises UserError for one that was not encoded."""
        try:
            return torch.tensor([self._row[text] for text in texts], dtype=torch.int64)
        except KeyError as error:
            raise UserError(f"the caption {error.args[0]!r} was not encoded: run the stage `text-captions` with it") from None

    def condition(self, rows: Tensor, time_ids: Tensor | None = None) -> Condition:
        """The condition of images with the captions at `rows` int64 [B] and the micro-conditioning `time_ids` [B, 6]."""
        return Condition(tokens=self.tokens[rows], mask=self.mask[rows], pooled=self.pooled[rows], time_ids=time_ids)

    def null(self, kind: NullText) -> Condition:
        """What the unconditional branch of guidance is told of the text, one row; micro-conditioning is told to both branches.

        empty   the encoding of "" (Stable Diffusion 1 and 2)
        zeros   zeros for all tokens and for the pooled vector (SDXL)
        """
        if kind == "empty":
            return self.condition(self.rows([EMPTY]))
        return Condition(tokens=torch.zeros_like(self.tokens[:1]), pooled=torch.zeros_like(self.pooled[:1]))


def encode_captions(texts: Sequence[str], encoder: SentenceEncoder, digest: str) -> CaptionArchive:
    """Encode each distinct caption of `texts` once, in the order of their first appearance, and the empty one at last."""
    distinct = (*dict.fromkeys(text for text in texts if text != EMPTY), EMPTY)
    return CaptionArchive(distinct, *encoder(distinct), digest)


def save_captions(path: str | Path, archive: CaptionArchive) -> None:
    """Write the archive: three tensors, the texts and the encoder's digest in the header."""
    tensors = {"tokens": archive.tokens, "mask": archive.mask, "pooled": archive.pooled}
    save_tensors(path, tensors, {"texts": list(archive.texts), "encoder_sha256": archive.encoder})


def load_captions(path: str | Path) -> CaptionArchive:
    """Read an archive back. Raises UserError if the file is absent, damaged, or holds something else."""
    tensors, metadata = load_tensors(path)
    if set(tensors) != {"tokens", "mask", "pooled"} or EMPTY not in metadata.get("texts", []):
        raise UserError(f"{path} is no archive of captions: run the stage `text-captions` again")
    return CaptionArchive(tuple(metadata["texts"]), tensors["tokens"], tensors["mask"], tensors["pooled"], metadata["encoder_sha256"])
