"""What each trick brings: the same work with it and without it, in turns."""

import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from timing import Clock, middle
from torch import nn
from updates import Setup, teacher

from backtrail.denoiser import NetDenoiser
from backtrail.parameters.training import Adam
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState, adam, weights

Row = dict[str, Any]
STALL = 1 / 20  # a save may stop the training for this share of a synchronous one
BFLOAT16_GAIN = 1.5
BFLOAT16_BATCH = 64  # what is not a convolution gains nothing, and weighs more in a small batch
CPUINFO = Path("/proc/cpuinfo")


def fused_adam(s: Setup, seconds: float, clock: Clock) -> Row:
    """The optimiser's step alone, on the net's weights."""
    p, net = Adam(lr=1e-6), s.denoiser().requires_grad_(True)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    plain, fused = torch.optim.Adam(net.parameters(), lr=p.lr, betas=p.betas), adam(net, p)
    return compared("fused Adam", "a step of the optimiser", {"without": plain.step, "with": fused.step}, seconds, clock)


def channels_last(s: Setup, seconds: float, clock: Clock) -> Row:
    """Convolutions' weights with the channels last."""
    return placed("channels_last", s, lambda net: net.to(memory_format=torch.channels_last), seconds, clock)


def bfloat16(s: Setup, seconds: float, clock: Clock) -> Row:
    """The net's products in bfloat16, where the processor has instructions for it; 64 channels and up, and a batch as one trains with."""
    row = placed_in_bfloat16("bfloat16", replace(s, batch=max(s.batch, BFLOAT16_BATCH)), autocast, seconds, clock)
    return row | ({"wanted": f">= {BFLOAT16_GAIN}", "verdict": row["gain"] >= BFLOAT16_GAIN} if "gain" in row else {})


def bfloat16_small_batch(s: Setup, seconds: float, clock: Clock) -> Row:
    """The same on the few images that the other rows are measured with."""
    return placed_in_bfloat16("bfloat16, small batch", s, autocast, seconds, clock)


def bfloat16_channels_last(s: Setup, seconds: float, clock: Clock) -> Row:
    """Both together."""
    name = "bfloat16 and channels_last"
    return placed_in_bfloat16(name, s, lambda net: autocast(net).to(memory_format=torch.channels_last), seconds, clock)


def placed_in_bfloat16(trick: str, s: Setup, place: Callable[[NetDenoiser], NetDenoiser], seconds: float, clock: Clock) -> Row:
    """`placed`, with the number of images in its row; or why it is not measured here."""
    of = f"the teacher's update, {s.batch} images"
    if missing := no_bfloat16(s):
        return {"trick": trick, "of": of, "note": missing}
    return placed(trick, s, place, seconds, clock) | {"of": of}


def compiled(s: Setup, seconds: float, clock: Clock) -> Row:
    """The net through torch.compile; the time of compiling is left out."""

    def through_compile(net: NetDenoiser) -> NetDenoiser:
        net.compiled = True
        return net

    return placed("torch.compile", s, through_compile, seconds, clock)


def unfilled(s: Setup, seconds: float, clock: Clock) -> Row:
    """torch's deterministic mode without its filling of each new tensor with NaN, which finds what reads memory that nothing wrote."""
    update = counted(teacher(s).update)

    def with_filling(fill: bool) -> Callable[[], None]:
        def call() -> None:
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            update()

        return call

    calls = {"without": with_filling(True), "with": with_filling(False)}
    return compared("new tensors left unfilled", "the teacher's update", calls, seconds, clock)


def checkpoint(millions: float, repeats: int, clock: Clock) -> Row:
    """How long a save stops the training, against a synchronous one: weights, Adam's two moments and the average of a net of that size.

    Training stops while a save is begun, and before the optimiser's step of the next update if the copy is not made by then. The first save
    of a process is left out: it asks for the memory that the others use again.
    """
    width = 512
    net = nn.Sequential(*[nn.Linear(width, width) for _ in range(max(1, round(millions * 1e6 / width**2)))]).to(clock.device)
    state = TrainingState({"net": net}, {"net": adam(net, Adam(lr=1e-6))}, {"net": weights(net)})
    batch = torch.randn(64, width, device=clock.device)

    def gradients() -> None:
        net(batch).sum().backward()
        clock.wait()

    gradients()
    state.optimisers["net"].step()
    folder = tempfile.mkdtemp(prefix="backtrail-bench-")
    stalls, whole = [], []
    try:
        scratch = Scratch(folder)
        for _ in range(repeats + 1):
            stall = took(lambda: scratch.save(state))
            gradients()
            stalls.append(stall + took(scratch.copied))
            scratch.finish()
            whole.append(took(lambda: scratch.save(state, wait=True)))
        scratch.clear()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    gain = median(all_s / stall for all_s, stall in zip(whole[1:], stalls[1:], strict=True))
    size_mb = sum(tensor.nbytes for tensor in state.tensors().values()) / 1e6
    row: Row = {"trick": "asynchronous save", "of": f"the stall of a save of {size_mb:.0f} MB", "without_ms": 1e3 * median(whole[1:])}
    note = f"the first save of a process stalls {1e3 * stalls[0]:.0f} ms"
    return row | {"with_ms": 1e3 * median(stalls[1:]), "gain": gain, "wanted": "> 20", "verdict": gain > 1 / STALL, "note": note}


def took(call: Callable[[], object]) -> float:
    """Seconds on the wall."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def placed(trick: str, s: Setup, place: Callable[[NetDenoiser], NetDenoiser], seconds: float, clock: Clock) -> Row:
    """The teacher's update with its net as `place` leaves it, against the net as it is."""
    calls = {"without": counted(teacher(s).update), "with": counted(teacher(replace(s, place=place)).update)}
    return compared(trick, "the teacher's update", calls, seconds, clock)


def counted(update: Callable[[int], object]) -> Callable[[], object]:
    """An update that counts its own steps."""
    steps = iter(range(1_000_000_000))
    return lambda: update(next(steps))


def compared(trick: str, of: str, calls: dict[str, Callable[[], object]], seconds: float, clock: Clock) -> Row:
    """Both in turns, after two calls of each that are not counted."""
    for call in (*calls.values(), *calls.values()):
        call()
    spent = clock.interleaved({name: lambda turn, call=call: call() for name, call in calls.items()}, seconds)
    times = {f"{name}_ms": 1e3 * clock.deciding(middle(spent[name])) for name in calls}
    return {"trick": trick, "of": of, **times, "gain": clock.ratio(spent, "without", "with")}


def autocast(net: NetDenoiser) -> NetDenoiser:
    net.autocast = torch.bfloat16
    return net


def no_bfloat16(s: Setup) -> str:
    """Why bfloat16 is not measured, or nothing."""
    if s.device.type == "cuda":
        return "" if torch.cuda.is_bf16_supported() else "this GPU has no bfloat16"
    if not CPUINFO.exists():
        return f"not measured: {platform.system()} does not say here whether the processor has bfloat16"
    flags = CPUINFO.read_text(encoding="utf-8")
    return "" if "avx512_bf16" in flags or "amx_bf16" in flags else "not measured: this processor has neither AVX512-BF16 nor AMX"


TRICKS: dict[str, Callable[[Setup, float, Clock], Row]] = {
    "fused Adam": fused_adam,
    "channels_last": channels_last,
    "bfloat16": bfloat16,
    "bfloat16, small batch": bfloat16_small_batch,
    "bfloat16 and channels_last": bfloat16_channels_last,
    "torch.compile": compiled,
    "new tensors left unfilled": unfilled,
}
