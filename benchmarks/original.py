"""Ours against the originals' arithmetic, typed again: `python benchmarks/original.py --width 64 --batch 8 --turns 5`.

The loops of `plain.py` (Diff-Instruct as released with 9 forwards, DisBack and its recording, SFD with its own trajectory in every round)
run here on EDM's network *and on layers as their code has them*: a kept group norm and SiLU, residual sums out of place, attention by
two `einsum` in (query, key) order, torch's own dropout and convolutions, the channels first. What those layers are is written from the
papers' formulas, not copied; it is no run of the released code. Weights, data, threads, determinism and the C library's settings for freed
memory are the same on both sides. Both make the same turns in turn; the ratio
is the median over the turns of CPU seconds, theirs by ours (over 1: ours is faster), with the smallest and largest beside it.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from unittest import mock

import bench
import torch
from timing import Clock
from torch import Tensor
from torch.nn import functional
from updates import CASES, Case, Setup

from backtrail.denoiser import NetDenoiser
from backtrail.nets.build import construct
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.edm_layers import UNetBlock
from backtrail.nets.songunet import SongUNetConfiguration

METHODS = ("recording", "diff-instruct", "disback", "sfd", "sfd, cached", "sfd-v", "sfd-v, cached")


def block(self: UNetBlock, x: Tensor, embedding: Tensor, step: Tensor | None = None) -> Tensor:
    """A residual block of DDPM++ (arXiv 2206.00364, Table 7), every intermediate value kept."""
    hidden = self.conv0(functional.silu(self.norm0(x))) + self.affine(embedding)[:, :, None, None]
    hidden = functional.dropout(functional.silu(self.norm1(hidden)), self.dropout, self.training)
    x = (self.conv1(hidden) + (self.skip(x) if self.skip is not None else x)) * self.skip_scale
    if not self.n_heads:
        return x
    batch, channels, height, width = x.shape
    q, k, v = self.qkv(self.norm2(x)).reshape(batch * self.n_heads, channels // self.n_heads, 3, height * width).unbind(2)
    weights = torch.einsum("ncq,nck->nqk", q, k / q.shape[1] ** 0.5).softmax(2)
    return (self.proj(torch.einsum("nqk,nck->ncq", weights, v).reshape(x.shape)) + x) * self.skip_scale


@contextmanager
def as_released() -> Iterator[None]:
    """EDM's network inside the block is computed as its own code does: kept values, torch's convolutions, the channels first."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(UNetBlock, "forward", block))
        stack.enter_context(mock.patch("backtrail.nets.songunet.laid_out", lambda x: x))
        stack.enter_context(mock.patch("backtrail.nets.convolution.winograd_pays", lambda x, weight: False))
        yield


def cases(params: Path, width: int, resolution: int, batch: int, methods: tuple[str, ...] = METHODS) -> dict[str, Case]:
    """The methods on EDM's network of a width (channels) for images [3, resolution, resolution], dropout 0.13 in score distillation."""
    net = SongUNetConfiguration(
        img_resolution=resolution, in_channels=3, out_channels=3, model_channels=width, channel_mult=(2, 2, 2), dropout=0.13
    )
    base = bench.setup(params, "tiny", torch.device("cpu"))
    shape = base.net.model_copy(update={"image_channels": 3, "resolution": resolution, "n_classes": 0})
    score = {name: p.model_copy(update={"dropout": True}) for name, p in base.score.items()}
    chosen = Setup(base.teacher, score, base.trajectory, shape, batch)

    def build(_: object, sigma_data: float, seed: int) -> NetDenoiser:
        return construct(EDMTeacher(preconditioning=EDM(sigma_data=sigma_data), net=net), seed)

    with mock.patch("updates.build", build):
        return {method: CASES[method](chosen) for method in methods}


def compare(case: Case, turns: int) -> tuple[float, float, float]:
    """CPU seconds of the original's arithmetic by ours: median over the turns, smallest, largest."""
    loop = case.plain()

    def original(turn: int) -> None:
        with as_released():
            loop(turn)

    clock, calls = Clock(torch.device("cpu")), {"ours": case.update, "original": original}
    for call in calls.values():
        call(0)
    spent = clock.interleaved(calls, 0.0, turns)
    ratios = [a.cpu_s / max(b.cpu_s, 1e-9) for a, b in zip(spent["original"], spent["ours"], strict=True)]
    return median(ratios), min(ratios), max(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default, meaning in (
        ("width", 64, "base channels of EDM's network"),
        ("resolution", 32, "pixels"),
        ("batch", 8, "images"),
        ("turns", 5, "rounds"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=meaning)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    given = parser.parse_args()
    bench.prepare(given.params, "cpu", 1)
    print("| method | original / ours | smallest | largest |\n| --- | --- | --- | --- |")
    for method in given.methods:
        (case,) = cases(given.params, given.width, given.resolution, given.batch, (method,)).values()
        print(f"| {method} | " + " | ".join(f"{ratio:.2f}" for ratio in compare(case, given.turns)) + " |", flush=True)


if __name__ == "__main__":
    main()
