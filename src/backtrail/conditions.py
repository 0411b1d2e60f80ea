"""What a denoiser may be told beside x and sigma, and where a run takes it from: classes, or captions that were encoded before."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from backtrail.randomness import Draw, generator


@dataclass(frozen=True)
class Condition:
    """What a denoiser may know beside x and sigma. Each field has a row for each image of the batch.

    labels: int64 [B], class index; the value `n_classes` is the null label of classifier-free guidance.
    steps: float32 [B], the number of time stamps of the sampler that calls (SFD-v's step condition).
    tokens: float [B, L, D], the embeddings of a text's tokens; mask: bool [B, L], True where a token is attended to, None for all of them.
    pooled: float [B, P], one vector for the whole text.
    time_ids: float [B, 6], micro-conditioning of SDXL (arXiv 2307.01952): original height and width, top and left of the crop, target
    height and width, in pixels.
    """

    labels: Tensor | None = None
    steps: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    pooled: Tensor | None = None
    time_ids: Tensor | None = None

    @property
    def told(self) -> dict[str, Tensor]:
        """The fields that say something."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    @property
    def n_rows(self) -> int:
        """Images that it is for. Raises ValueError if its fields disagree, or none says anything."""
        rows = {name: len(value) for name, value in self.told.items()}
        if len({*rows.values()}) != 1:
            raise ValueError(f"the fields of a condition have a row for each image, found {rows}")
        return next(iter(rows.values()))

    def rows(self, rows: slice | Tensor) -> "Condition":
        """The condition of some of the images."""
        return Condition(**{name: value[rows] for name, value in self.told.items()})

    def to(self, device: torch.device | str) -> "Condition":
        """The same on that device."""
        return Condition(**{name: value.to(device) for name, value in self.told.items()})

    def under(self, null: "Condition", n: int) -> "Condition":
        """What the unconditional branch of guidance is told about the same n images: what `null` (of one row, or of n) says.

        What null leaves open stays: the steps, and the time ids, which both branches of SDXL are given. The mask belongs to the tokens.
        Raises ValueError if null says what this condition does not.
        """
        if absent := null.told.keys() - self.told.keys() - {"mask"}:
            raise ValueError(f"guidance needs {', '.join(sorted(absent))} in the condition")
        branch = {name: value.expand(n, *value.shape[1:]) for name, value in null.told.items()}
        own: dict[str, Any] = {"mask": None} if null.tokens is not None else {}
        return replace(self, **own | branch)


class Conditions(Protocol):
    """Where a run takes its conditions from; what they are is no matter of the methods. All are on the CPU, None where there are none.

    null  the condition of guidance's other branch, of one row
    """

    @property
    def null(self) -> Condition | None: ...

    def drawn(self, draw: Draw, n: int) -> Condition | None:
        """For training: of a batch of n images, the rows of the draw's part."""
        ...

    def of_images(self, indices: Sequence[int]) -> Condition | None:
        """For sampling: image i's is a function of i alone."""
        ...

    def of_data(self, labels: Tensor | None) -> Condition | None:
        """Of images of the data set, by their labels int64 [n]."""
        ...


@dataclass(frozen=True)
class Labels:
    """Classes, uniform; without any (0), no condition."""

    n_classes: int = 0

    @property
    def null(self) -> Condition | None:
        return Condition(labels=torch.tensor([self.n_classes])) if self.n_classes else None

    def drawn(self, draw: Draw, n: int) -> Condition | None:
        return Condition(labels=draw.integers(self.n_classes, n)) if self.n_classes else None

    def of_images(self, indices: Sequence[int]) -> Condition | None:
        return Condition(labels=image_labels(indices, self.n_classes)) if self.n_classes else None

    def of_data(self, labels: Tensor | None) -> Condition | None:
        """Raises ValueError if there are classes and the data have no labels."""
        if not self.n_classes:
            return None
        if labels is None:
            raise ValueError("a conditional denoiser needs the labels of the data")
        return Condition(labels=labels)


@dataclass(frozen=True)
class Captions:
    """Encoded captions, each row a caption with all that is told beside it.

    training: what training draws from, uniformly, and what the labels of a data set count in; evaluation: image i is of row i, and from
    the first row again after the last; null: one row, such as the encoding of "" (Stable Diffusion) or zeros (SDXL).
    """

    training: Condition
    evaluation: Condition
    null: Condition

    def __deepcopy__(self, memo: dict[int, Any]) -> "Captions":
        """Itself: copies of a denoiser share what they are told."""
        return self

    def drawn(self, draw: Draw, n: int) -> Condition:
        return self.training.rows(draw.integers(self.training.n_rows, n))

    def of_images(self, indices: Sequence[int]) -> Condition:
        return self.evaluation.rows(torch.tensor([*indices]) % self.evaluation.n_rows)

    def of_data(self, labels: Tensor | None) -> Condition:
        """Raises ValueError if the data say of no caption."""
        if labels is None:
            raise ValueError("a denoiser of captions needs the captions of the data, by their number")
        return self.training.rows(labels)


def time_ids(original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """SDXL's micro-conditioning (`Condition.time_ids`), float32 [1, 6], of (height, width), (top, left), (height, width) in pixels."""
    return torch.tensor([[*original, *crop, *target]], dtype=torch.float32)


def image_labels(indices: Sequence[int], n_classes: int) -> Tensor:
    """The class of each image, int64 [len(indices)], uniform, a function of the image's own seed."""
    return torch.cat([torch.randint(n_classes, (1,), generator=generator(i, "label")) for i in indices])
