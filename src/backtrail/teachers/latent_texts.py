"""The captions of a published latent teacher, each distinct one encoded once by the teacher's own text encoders, and what is told of them.

Encodings are kept in half precision, as released codes cache them: 115.5 KiB a caption for Stable Diffusion, 310.5 KiB for SDXL.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backtrail.conditions import Condition
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.parameters.latent import Prompts
from backtrail.randomness import Draw
from backtrail.teachers.text_encoders import TextEncoder
from backtrail.tensors import load_tensors, save_tensors

NOTHING = "nothing"  # the one tensor of an archive of a suite without texts
ROWS = ("training", "evaluation", "real")


@dataclass(frozen=True)
class LatentPrompts:
    """Where distillation and sampling of a latent teacher take their conditions from (`conditions.Conditions`).

    texts: n distinct captions. tokens: float16 [n + 1, L, D], pooled: float16 [n + 1, P] or None; the last row is the null text.
    training, evaluation: rows, int64, a caption may stand in `evaluation` more than once. real: the rows of the real images, in order.
    time_ids: float32 [6] or None, the same for every image and both branches.
    """

    texts: tuple[str, ...]
    tokens: Tensor
    pooled: Tensor | None
    training: Tensor
    evaluation: Tensor
    real: Tensor
    time_ids: Tensor | None

    def __deepcopy__(self, memo: dict[int, Any]) -> "LatentPrompts":
        """Itself: copies of a denoiser share what they are told."""
        return self

    @property
    def null(self) -> Condition:
        pooled = None if self.pooled is None else self.pooled[-1:].float()
        return Condition(tokens=self.tokens[-1:].float(), pooled=pooled)

    def drawn(self, draw: Draw, n: int) -> Condition:
        return self.of_data(self.training[draw.integers(len(self.training), n)])

    def of_images(self, indices: Sequence[int]) -> Condition:
        return self.of_data(self.evaluation[torch.tensor([*indices]) % len(self.evaluation)])

    def of_data(self, labels: Tensor | None) -> Condition:
        """Of the texts at these rows. Raises ValueError if there are none."""
        if labels is None:
            raise ValueError("a denoiser of texts needs the rows of the texts")
        pooled = None if self.pooled is None else self.pooled[labels].float()
        ids = None if self.time_ids is None else self.time_ids.expand(len(labels), -1)
        return Condition(tokens=self.tokens[labels].float(), pooled=pooled, time_ids=ids)

    def caption(self, image: int) -> str:
        """The caption that image i is sampled under."""
        return self.texts[int(self.evaluation[image % len(self.evaluation)])]


def encode_texts(
    training: Sequence[str],
    evaluation: Sequence[str],
    real: Sequence[str] | None,
    encoder: TextEncoder,
    p: Prompts,
    on_batch: Callable[[int], None] = lambda done: None,
) -> dict[str, Tensor | tuple[str, ...]]:
    """What `save_texts` writes: each distinct caption of the three lists encoded once, and the null text.

    real: the captions of the real images; None: they are told the null text.
    """
    texts = tuple(dict.fromkeys([*training, *evaluation, *(real or [])]))
    row, tokens, pooled = {text: k for k, text in enumerate(texts)}, [], []
    for first in range(0, len(texts), p.batch):
        _keep(encoder(texts[first : first + p.batch]), tokens, pooled)
        on_batch(min(first + p.batch, len(texts)))
    _keep(encoder.null(zeros=p.null_text == "zeros"), tokens, pooled)
    lists = {"training": training, "evaluation": evaluation, "real": real or []}
    rows = {name: torch.tensor([row[text] for text in of], dtype=torch.int64) for name, of in lists.items()}
    return {"texts": texts, "tokens": torch.cat(tokens), **({"pooled": torch.cat(pooled)} if pooled else {}), **rows}


def _keep(said: Condition, tokens: list[Tensor], pooled: list[Tensor]) -> None:
    if said.tokens is None:
        raise ValueError("a text encoder says tokens")
    tokens.append(said.tokens.half().cpu())
    if said.pooled is not None:
        pooled.append(said.pooled.half().cpu())


def save_texts(path: str | Path, encoded: dict[str, Any] | None, p: Prompts | None, **extra: Any) -> None:
    """Write the archive; of a suite without texts one that says so. `extra`: the digests of the encoders' files."""
    if encoded is None or p is None:
        save_tensors(path, {NOTHING: torch.zeros(0)}, {"texts": []})
        return
    tensors = {name: value for name, value in encoded.items() if isinstance(value, Tensor)}
    about = {"texts": list(encoded["texts"]), "time_ids": p.time_ids, "kept": p.kept, "null_text": p.null_text}
    save_tensors(path, tensors, about | extra)


def load_texts(path: str | Path) -> LatentPrompts | None:
    """Read an archive back, None if the suite has no texts. Raises UserError if the file is absent, damaged, or holds something else."""
    tensors, metadata = load_tensors(path)
    if set(tensors) == {NOTHING}:
        return None
    if not {"tokens", *ROWS} <= set(tensors) <= {"tokens", "pooled", *ROWS} or not metadata.get("texts"):
        raise UserError(f"{path} is no archive of encoded captions: run the stage `latent-captions` again")
    ids = None if metadata["time_ids"] is None else torch.tensor(metadata["time_ids"], dtype=torch.float32)
    rows = {name: tensors[name] for name in ROWS}
    return LatentPrompts(tuple(metadata["texts"]), tensors["tokens"], tensors.get("pooled"), time_ids=ids, **rows)


def telling(place: Callable[[NetDenoiser], NetDenoiser], prompts: LatentPrompts | None) -> Callable[[NetDenoiser], NetDenoiser]:
    """`place`, after which a denoiser takes its conditions from the prompts; without any it is told nothing."""

    def placed(denoiser: NetDenoiser) -> NetDenoiser:
        denoiser.told = prompts
        return place(denoiser)

    return placed
