"""Random numbers as a function of (seed, purpose, step, index), never of rank, worker, batch size or device count.

A generator is made on the spot for each draw, so nothing has to be saved for a resumed run to continue with the same numbers. Draws are
made on the CPU and moved: CUDA generators give other numbers for the same seed.
"""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional


def derive_seed(seed: int, purpose: str, step: int = 0, index: int = 0) -> int:
    """A 63-bit seed from the four coordinates of a draw.

    Torch's CPU generator keeps its lower 32 bits: of the images 0 to 149,999 two, 13831 and 149206, have the same noise.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, step: int = 0, index: int = 0) -> torch.Generator:
    """A CPU generator for one draw."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, step, index))


def image_noise(indices: range | list[int], shape: tuple[int, ...], purpose: str = "image") -> Tensor:
    """Standard normal noise [len(indices), *shape] in which row k depends on `indices[k]` alone: image i is seed i."""
    return torch.stack([torch.randn(shape, generator=generator(i, purpose)) for i in indices])


@dataclass(frozen=True)
class Part:
    """The rows of a batch that one pass of a network works on; share is their part of the batch."""

    rows: slice
    batch: int

    @property
    def share(self) -> float:
        return (self.rows.stop - self.rows.start) / self.batch


@dataclass(frozen=True)
class Draw:
    """A draw of random numbers: they are a function of (seed, purpose, step) and of their place in the whole batch.

    part: the rows that are wanted; None is all of them. Numbers are always drawn for the whole batch, whose size shapes begin with.
    """

    seed: int
    purpose: str
    step: int = 0
    part: Part | None = None

    def of(self, name: str) -> "Draw":
        """Another draw of the same step and rows, called `PURPOSE-NAME`."""
        return replace(self, purpose=f"{self.purpose}-{name}")

    def rows(self, part: Part) -> "Draw":
        """The same draw, of which a pass gets its rows."""
        return replace(self, part=part)

    def batch(self, own: Tensor) -> int:
        """The size of the whole batch, of which `own` are the rows of this part."""
        return self.part.batch if self.part else len(own)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise for a batch of `shape`, float32."""
        return self._own(torch.randn(shape, generator=self._generator()))

    def integers(self, high: int, n: int) -> Tensor:
        """n integers in [0, high), int64."""
        return self._own(torch.randint(high, (n,), generator=self._generator()))

    def uniform(self, n: int) -> Tensor:
        """n numbers in [0, 1), float32."""
        return self._own(torch.rand(n, generator=self._generator()))

    def integer(self, high: int) -> int:
        """One integer in [0, high) for the whole batch."""
        return int(torch.randint(high, (1,), generator=self._generator()))

    def permutation(self, n: int) -> Tensor:
        """The integers 0..n-1 in random order, int64 [n], for the whole batch."""
        return torch.randperm(n, generator=self._generator())

    def masks(self) -> AbstractContextManager[None]:
        """Dropout inside the block is this draw's (`dropout_masks`)."""
        return dropout_masks(self.seed, self.purpose, self.step, self.part.rows.start if self.part else 0)

    def _generator(self) -> torch.Generator:
        return generator(self.seed, self.purpose, self.step)

    def _own(self, drawn: Tensor) -> Tensor:
        return drawn[self.part.rows] if self.part else drawn


@dataclass(frozen=True)
class Masks:
    """The dropout masks of a pass: a value's is a hash of the key, its layer, its sample's row in the batch, and its place in the sample.

    first_row: the batch's row that is the first of what the pass computes.
    """

    key: int
    first_row: int = 0
    # Both as a tensor: torch's compiler takes a number for a constant, and would compile anew in every step.
    place: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", torch.tensor([self.key, self.first_row], device="cpu"))

    def dropout(self, x: Tensor, probability: float, layer: int) -> Tensor:
        """x [B, ...] with values put to 0 with `probability` (a multiple of 2^-16), the others scaled up by 1 / (1 - probability)."""
        if probability == 1:
            return x * 0
        keep = kept(x, self.place, layer, round(probability * (1 << 16))).contiguous(memory_format=_layout(x))
        return torch.where(keep, x, 0.0).mul_(1 / (1 - probability))  # one byte a value is kept for the backward pass


@torch.library.custom_op("backtrail::kept", mutates_args=())
def kept(x: Tensor, place: Tensor, layer: int, threshold: int) -> Tensor:
    """Which values of x [B, ...] a dropout mask keeps, bool, with probability 1 - threshold / 2^16; the hash is splitmix64.

    place: key and first row, int64 [2], on the CPU. One hash gives four values, in place: torch has no vectorised product of 64-bit
    integers, and memory costs more than the sums. An operator of its own, for the compiler fails on a view in another width.
    """
    key, first_row = place.tolist()
    n_values = x[0].numel()
    n_words = -(-n_values // 4)
    h = torch.arange(len(x) * n_words, device=x.device)
    h.add_(_wrapped(derive_seed(key, "layer", layer) + first_row * n_words)).mul_(_wrapped(0x9E3779B97F4A7C15))
    shifted = torch.empty_like(h)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        # torch's shift repeats the sign; splitmix64's lets zeros in, without which the highest bit would be lost.
        h.bitwise_xor_(torch.bitwise_right_shift(h, shift, out=shifted).bitwise_and_((1 << (64 - shift)) - 1))
        if factor != 1:
            h.mul_(_wrapped(factor))
    bits = h.view(torch.int16).reshape(len(x), 4 * n_words)[:, :n_values]  # uniform over all 2^16 numbers
    return (bits >= threshold - (1 << 15)).reshape(x.shape)


@kept.register_fake
def _(x: Tensor, place: Tensor, layer: int, threshold: int) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.bool)


_masks: ContextVar[Masks | None] = ContextVar("masks", default=None)


@contextmanager
def dropout_masks(seed: int, purpose: str, step: int, first_row: int = 0) -> Iterator[None]:
    """Dropout inside the block is a function of (seed, purpose, step, row of the batch), never of how the batch is divided.

    Layers of other libraries draw from torch's generators, which are seeded by the same coordinates and put back after the block.
    """
    device = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=device):
        torch.manual_seed(derive_seed(seed, purpose, step, first_row))
        token = _masks.set(Masks(derive_seed(seed, purpose, step), first_row))
        try:
            yield
        finally:
            _masks.reset(token)


def current_masks() -> Masks | None:
    """The masks of the surrounding `dropout_masks`, to be handed to what may be computed again later, in another thread."""
    return _masks.get()


def dropout(x: Tensor, probability: float, masks: Masks | None, layer: int) -> Tensor:
    """Dropout of a layer in training; without masks, torch's own."""
    if probability == 0:
        return x
    return functional.dropout(x, probability) if masks is None else masks.dropout(x, probability, layer)


def _layout(x: Tensor) -> torch.memory_format:
    """How x lies in memory: a mask that lies otherwise would be read slowly, and the product would lie as the mask does."""
    last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _wrapped(value: int) -> int:
    """An integer as int64 holds it."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
