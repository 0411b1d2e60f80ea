"""Which captions of `fashion-text` models are distilled and sampled under: those of training and of evaluation are kept apart.

SFD's released code trains on the very captions that it is measured on (30,000 of COCO); that is the option `same`.
"""

from typing import Literal

import torch
from torch import Tensor

from backtrail.conditions import Captions, Condition
from backtrail.data.caption_archive import CaptionArchive
from backtrail.data.captions import CAPTIONS, N_CAPTIONS, WORDINGS, Caption
from backtrail.data.dataset import Labelled
from backtrail.data.fashion_text import centre_time_ids
from backtrail.parameters.text import NullText
from backtrail.randomness import Draw
from backtrail.teachers.latents import Latents

PromptKind = Literal["apart", "same"]
KEPT = len(WORDINGS) - 1  # the wording that is kept for evaluation


def training_numbers(kind: PromptKind) -> Tensor:
    """Captions that students are trained under, int64 [n]: of pairs that training images show; apart, in all wordings but the last."""
    known = [(number, Caption.of(number)) for number in range(N_CAPTIONS)]
    return torch.tensor([number for number, said in known if not said.held_out and (kind == "same" or said.wording != KEPT)])


def evaluation_numbers(kind: PromptKind) -> Tensor:
    """Captions that models are sampled under, int64 [n], image i under the i-th and from the first again after the last.

    Apart, they are all pairs, held out or not, on either ground, in the last wording: 160 in an order that was drawn once.
    """
    if kind == "same":
        numbers = training_numbers(kind)
    else:
        numbers = torch.tensor([number for number in range(N_CAPTIONS) if Caption.of(number).wording == KEPT])
    return numbers[Draw(0, "prompts").permutation(len(numbers))]


def prompts(texts: CaptionArchive, null: NullText, kind: PromptKind) -> Captions:
    """Where distillation and sampling take their conditions from; all ask for a centred crop."""

    def condition(numbers: Tensor) -> Condition:
        rows = texts.rows(CAPTIONS[number] for number in numbers.tolist())
        return texts.condition(rows, torch.from_numpy(centre_time_ids(len(rows))).float())

    return Captions(condition(training_numbers(kind)), condition(evaluation_numbers(kind)), texts.null(null))


def training_data(latents: Latents, kind: PromptKind, n: int = 1024) -> Labelled:
    """The first n latents that students' training captions speak of, in the middle of the picture; a label is a row of those captions."""
    numbers = training_numbers(kind)
    row = torch.full((N_CAPTIONS,), -1)
    row[numbers] = torch.arange(len(numbers))
    centred = (latents.time_ids == torch.from_numpy(centre_time_ids(1)).float()).all(dim=1)
    chosen = (centred & (row[latents.captions] >= 0)).nonzero()[:n, 0]
    return Labelled(latents.latents[chosen], row[latents.captions[chosen]])
