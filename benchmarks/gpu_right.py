"""Whether a device computes what the CPU does: updates, samplers and metrics, precisions, the same bytes twice, resume, memory.

Errors are relative: ||found - expected|| / ||expected|| over all values of one kind (a module's weights, one of Adam's moments, a loss), of
which the largest stands in the row. Adam's first moment is the gradient, so nothing hides behind weights that have hardly moved.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache, partial
from typing import Any
from unittest import mock

import gpu_memory
import gpu_metrics
import torch
from gpu_cases import make_case, prepare
from gpu_results import Group, Row, Rows, Settings
from torch import Tensor
from updates import CASES, Case

from backtrail.errors import Interrupted
from backtrail.nets.build import construct
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.running.torch_stage import AUTOCAST
from backtrail.sampling.sample import Sampler
from backtrail.sampling.solvers import SOLVERS
from backtrail.training.loop import run
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState

# float32 sums in another order; tf32 and float16 keep 11 bits of a product's factors, bfloat16 8, through some twenty layers and back.
BOUNDS = {"float32": 1e-3, "tf32": 5e-2, "float16": 5e-2, "bfloat16": 0.3, "torch.compile": 1e-3, "CUDA graphs": 1e-3}
SHORTENED = ("teacher", "disback", "sfd-v")  # one for each kind of training
UPDATES, STEPS = 2, 4


def configuration(s: Settings) -> EDMTeacher:
    """EDM's network, small enough for a CPU beside it."""
    shape = {"img_resolution": 8, "model_channels": 8, "num_blocks": 1, "attn_resolutions": (4,)} if s.tiny else {
        "img_resolution": 16, "model_channels": 32, "num_blocks": 2, "attn_resolutions": (8,)
    }  # fmt: skip
    return EDMTeacher(preconditioning=EDM(), net=SongUNetConfiguration(in_channels=3, out_channels=3, channel_mult=(1, 2), **shape))


@torch.no_grad()
def apart_from_each_other(state: TrainingState) -> None:
    """Move each trained net off the one that it is a copy of: the difference of two equal scores would be rounding alone."""
    for seed, module in enumerate(state.modules.values(), start=10):
        draw = torch.Generator().manual_seed(seed)
        for weight in module.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=draw).to(weight.device))


def started(s: Settings, method: str, device: torch.device) -> Case:
    """A small case at its first update."""
    case = make_case(s.params, method, configuration(s), 2 if s.tiny else 8, device)
    apart_from_each_other(case.state)
    return case


def after_updates(s: Settings, method: str, device: torch.device, precision: str = "float32", compiled: str = "") -> dict[str, Tensor]:
    """Everything that a run has after two updates, on the CPU."""
    prepare(device, precision, bool(compiled))
    case, losses = started(s, method, device), dict[str, float]()
    for net in {id(net): net for net in (*case.nets.values(), *case.state.modules.values())}.values():
        net.autocast = AUTOCAST[precision]
        if compiled:
            net.net.compile(**compiler(s, compiled))
    for step in range(UPDATES):
        if compiled == "CUDA graphs":
            torch.compiler.cudagraph_mark_step_begin()
        losses = case.update(step)
    found = {name: tensor.detach().cpu() for name, tensor in case.state.tensors().items()}
    return found | {f"loss/{name}": torch.tensor(value) for name, value in losses.items()}


def compiler(s: Settings, compiled: str) -> dict[str, str]:
    """Options of torch.compile; a rehearsal traces the net and does not wait for the compiler."""
    if s.tiny:
        return {"backend": "aot_eager"}
    return {"mode": "reduce-overhead"} if compiled == "CUDA graphs" else {}


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative difference over the kinds of values, and the kind. Raises ValueError if the names or shapes differ."""
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in expected.items()}:
        raise ValueError("other values than were expected")
    sums: dict[str, tuple[float, float]] = {}
    for name, value in expected.items():
        parts = name.split("/")
        if parts[-1] == "step":
            continue
        kind = " ".join([*parts[:2], parts[-1]] if parts[0] == "optimiser" else parts[:2])
        of_difference, of_expected = sums.get(kind, (0.0, 0.0))
        difference = (found[name].double() - value.double()).square().sum().item()
        sums[kind] = of_difference + difference, of_expected + value.double().square().sum().item()
    errors = {kind: (a / b) ** 0.5 if b else (a and float("inf")) for kind, (a, b) in sums.items()}
    worst = max(errors, key=lambda kind: errors[kind] if errors[kind] == errors[kind] else float("inf"))
    return errors[worst], worst


def compared(found: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> Row:
    """A row about two sets of values; a NaN is not within any bound."""
    error, worst = largest_error(found, expected)
    finite = error == error and error != float("inf")
    return {"error": error if finite else None, "of": worst, "bound": bound, "within": finite and error <= bound} | (
        {} if finite else {"note": "not finite"}
    )


def updates(s: Settings) -> Rows:
    """Every method's update at float32 against the CPU."""

    def row(method: str) -> Row:
        return compared(after_updates(s, method, s.on), after_updates(s, method, torch.device("cpu")), BOUNDS["float32"])

    return {f"{method}: against the CPU": partial(row, method) for method in CASES}


def shortened(s: Settings, names: tuple[str, ...]) -> Rows:
    """Precisions and compilers against eager float32 on the same device."""
    expected = cache(lambda method: after_updates(s, method, s.on))

    def row(method: str, name: str) -> Row:
        precision, compiled = (name, "") if name in AUTOCAST else ("float32", name)
        return compared(after_updates(s, method, s.on, precision, compiled), expected(method), BOUNDS[name])

    return {f"{method}: {name} against float32": partial(row, method, name) for method in SHORTENED for name in names}


def twice(s: Settings) -> Rows:
    """The same bytes from two runs, and from a run that was stopped and taken up again after each step."""

    def again(method: str) -> Row:
        digests = {digest(after_updates(s, method, s.on)) for _ in range(2)}
        return {"within": len(digests) == 1, "sha256": min(digests)[:16]}

    def resumed(method: str) -> Row:
        prepare(s.on)
        whole, stops = started(s, method, s.on), 0
        for _ in run(whole.state, whole.update, STEPS):
            pass
        with tempfile.TemporaryDirectory(prefix="backtrail-gpu-") as folder:
            while True:
                case, scratch = started(s, method, s.on), Scratch(folder)
                try:
                    with mock.patch.dict(os.environ, BACKTRAIL_SLICE_S="0"):  # stops after a step, with its state saved
                        for _ in run(case.state, case.update, STEPS, scratch):
                            pass
                    break
                except Interrupted:
                    stops += 1
            scratch.clear()
        equal = digest(case.state.tensors()) == digest(whole.state.tensors())
        return {"within": equal and stops == STEPS - 1, "stops": stops}

    rows: dict[str, Callable[[], Row]] = {}
    for method in ("teacher", "recording", "diff-instruct", "disback", "trajectory", "sfd", "sfd-v"):
        rows[f"{method}: the same bytes twice"] = partial(again, method)
        rows[f"{method}: stopped and resumed, the same bytes"] = partial(resumed, method)
    return rows


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 of all values, in the order of their names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


WAYS: dict[str, dict[str, Any]] = {
    **{solver: {"solver": solver} for solver in SOLVERS},
    "analytical first step": {"afs": True},
    "dynamic thresholding": {"threshold": True},
    "one step": {"num_steps": None, "sigma_init": 2.5},
}


@torch.no_grad()
def samplers(s: Settings) -> Rows:
    """Every sampler at float32 against the CPU."""
    nets = {}
    for device in (torch.device("cpu"), s.on):
        prepare(device)
        nets[device] = construct(configuration(s)).eval().requires_grad_(False)
        draw = torch.Generator().manual_seed(0)
        for weight in nets[device].parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=draw))
        nets[device].to(device)
    noise = torch.randn(4, *nets[s.on].image_shape, generator=torch.Generator().manual_seed(1))

    def row(way: dict[str, Any]) -> Row:
        sampler = Sampler(**({"num_steps": 7} | way))
        with torch.no_grad():
            found, expected = ({"x0": sampler(nets[device], noise.to(device)).cpu()} for device in (s.on, torch.device("cpu")))
        return compared(found, expected, BOUNDS["float32"])

    return {f"{name}: against the CPU": partial(row, way) for name, way in WAYS.items()}


COLUMNS = {
    "error": "largest relative error", "of": "of", "bound": "bound", "within": "within", "stops": "stops",
    "peak_mb": "peak, MB", "nets_mb": "nets and Adam, MB", "activations_mb": "rest, MB",
}  # fmt: skip


def groups() -> list[Group]:
    """The rows of this part, what matters most first; compilers come last, since each net takes them a minute."""

    def of(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{method}: {name} against float32" for method in SHORTENED for name in names)

    precisions, compilers = ("tf32", "bfloat16", "float16"), ("torch.compile", "CUDA graphs")
    methods = ("teacher", "recording", "diff-instruct", "disback", "trajectory", "sfd", "sfd-v")
    both = tuple(f"{method}: {what}" for method in methods for what in ("the same bytes twice", "stopped and resumed, the same bytes"))
    return [
        Group(tuple(f"{method}: against the CPU" for method in CASES), updates),
        Group(tuple(f"{name}: against the CPU" for name in WAYS), samplers),
        Group(both, twice),
        Group(of(precisions), partial(shortened, names=precisions)),
        Group(gpu_metrics.KEYS, gpu_metrics.against_cpu),
        *(Group((key,), gpu_memory.memory, 90.0) for key in gpu_memory.KEYS),
        *(Group(of((name,)), partial(shortened, names=(name,)), 90.0) for name in compilers),
    ]
