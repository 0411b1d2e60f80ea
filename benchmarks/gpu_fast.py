"""How fast a device trains every method on the published CIFAR-10 network (55.7 M weights, 3x32x32), by precision, optimiser and batch."""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bench
import torch
from gpu_cases import make_case, prepare
from gpu_results import Group, Row, Rows, Settings
from gpu_right import configuration
from timing import Clock
from updates import CASES, Case

from backtrail.cli.compute_cost import forward_gflop, inception_gflop
from backtrail.denoiser import NetDenoiser
from backtrail.metrics.features import extractor
from backtrail.nets.build import construct, construct_empty
from backtrail.nets.edm import EDMTeacher
from backtrail.parameters.sampling import Schedule
from backtrail.running.torch_stage import AUTOCAST
from backtrail.sampling.sample import CHUNK, Sampler
from backtrail.teachers.published import PUBLISHED

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/unit"))
from random_inception import write_random_weights

BATCH, SWEEP = 128, (32, 512)
PRECISIONS = ("float32", "tf32", "bfloat16")
ORDER = ("diff-instruct", "disback", "teacher", "sfd", "sfd-v", "recording", "trajectory", "shared noise", "sfd, cached", "sfd-v, cached")
COMPILED = ("diff-instruct", "disback", "teacher", "sfd")  # the others run the same nets
ADAMS: dict[str, dict[str, bool]] = {"fused": {"fused": True}, "foreach": {"foreach": True}, "a loop": {"foreach": False}}

# Dense products, TFLOP/s, as NVIDIA states them: "NVIDIA H100 Tensor Core GPU Architecture" (white paper, 2022, Table 2), the data sheets
# of H200 and A100. TF32 and bfloat16 are for tensor cores without sparsity, half of what the data sheets print for H100 and H200.
_HOPPER = {"float32": 66.9, "tf32": 494.7, "bfloat16": 989.4}
_AMPERE = {"float32": 19.5, "tf32": 156.0, "bfloat16": 312.0}
PEAK_TFLOPS: dict[str, dict[str, float]] = {
    "NVIDIA H100 80GB HBM3": _HOPPER,
    "NVIDIA H200": _HOPPER,
    "NVIDIA A100-SXM4-40GB": _AMPERE,
    "NVIDIA A100-SXM4-80GB": _AMPERE,
    "NVIDIA A100 80GB PCIe": _AMPERE,
}
COLUMNS = {
    "batch": "batch", "images_per_s": "images/s", "update_ms": "ms", "turns": "turns", "peak_mb": "peak, MB", "tflops": "TFLOP/s",
    "share": "share of the peak",
}  # fmt: skip


def network(s: Settings) -> EDMTeacher:
    """The published network; in a rehearsal a tiny one."""
    return configuration(s) if s.tiny else PUBLISHED["edm-cifar10-32x32-uncond-vp"]


def peak(device: torch.device, precision: str) -> float | str:
    """TFLOP/s that the device's maker states, or `unknown`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return PEAK_TFLOPS.get(name, {}).get(precision, "unknown")


def timed(s: Settings, call: Callable[[int], object], at_least: int = 2, warm: int = 1) -> tuple[list[float], float]:
    """Seconds of each call, after `warm` ones that do not count, and the most memory meanwhile, MB."""
    clock = Clock(s.on)
    for turn in range(warm):
        call(turn)
    if s.on.type == "cuda":
        clock.wait()
        torch.cuda.reset_peak_memory_stats(s.on)
    spent = clock.interleaved({"call": lambda turn: call(turn + warm)}, s.seconds, at_least)["call"]
    return [clock.deciding(time) for time in spent], bench.peak_mb(s.on)


def throughput(device: torch.device, precision: str, seconds: list[float], images: int, gflop: float, peak_mb: float) -> Row:
    """A row: `images` in each call, `gflop` (10^9 operations) of all calls together."""
    rate, known = gflop / 1e3 / sum(seconds), peak(device, precision)
    row = {"batch": images, "images_per_s": images * len(seconds) / sum(seconds), "update_ms": 1e3 * sum(seconds) / len(seconds)}
    share = known if isinstance(known, str) else rate / known
    return row | {"turns": len(seconds), "peak_mb": peak_mb, "tflops": rate, "share": share}


def update_row(s: Settings, case: Case, precision: str, compiled: bool = False) -> Row:
    """A case's updates in a precision."""
    prepare(s.on, precision, compiled)
    for net in {id(net): net for net in (*case.nets.values(), *case.state.modules.values())}.values():
        net.autocast = AUTOCAST[precision]
        if compiled:
            net.net.compile(**({"backend": "aot_eager"} if s.tiny else {}))
    warm = 2 if compiled else 1
    seconds, peak_mb = timed(s, case.update, warm=warm)
    forwards = sum(case.ideal(turn + warm) for turn in range(len(seconds)))
    per_forward = forward_gflop(construct_empty(network(s), "the published network"))
    return throughput(s.on, precision, seconds, case.batch, forwards * case.batch * per_forward, peak_mb)


def method_case(s: Settings, method: str, batch: int) -> Case:
    """A method's case; trajectories that are cached are made in tf32, which saves time and changes no speed."""
    prepare(s.on, "tf32")
    return make_case(s.params, method, network(s), 2 if s.tiny else batch, s.on)


def methods(s: Settings, method: str) -> Rows:
    """A method in each precision, eager; float32 is without TF32, as Diff-Instruct was released."""
    case = method_case(s, method, BATCH)
    return {f"{method}, {precision}": partial(update_row, s, case, precision) for precision in PRECISIONS}


def compiled(s: Settings, method: str) -> Rows:
    """A method in bfloat16 through torch.compile; the time of compiling is left out."""
    return {f"{method}, bfloat16, compiled": lambda: update_row(s, method_case(s, method, BATCH), "bfloat16", compiled=True)}


def batches(s: Settings, batch: int) -> Rows:
    """Diff-Instruct at another batch."""
    case = method_case(s, "diff-instruct", batch)
    return {f"diff-instruct, {precision}, batch {batch}": partial(update_row, s, case, precision) for precision in ("float32", "bfloat16")}


def adams(s: Settings) -> Rows:
    """A step of Adam on the network's weights: torch's kernels."""
    prepare(s.on)
    net = construct(network(s)).to(s.on)
    for weight in net.parameters():
        weight.grad = torch.randn_like(weight)

    def row(options: dict[str, bool]) -> Row:
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-6, **options)
        seconds, peak_mb = timed(s, lambda turn: optimiser.step(), warm=3)
        return {"update_ms": 1e3 * sum(seconds) / len(seconds), "turns": len(seconds), "peak_mb": peak_mb}

    return {f"a step of Adam, {name}": partial(row, options) for name, options in ADAMS.items()}


WAYS: dict[str, dict[str, Any]] = {
    "Heun, 18 time stamps": {"solver": "heun", "num_steps": 18, "schedule": Schedule(t_min=0.002)},
    "DPM-Solver++(3M), 6 time stamps": {"solver": "dpmpp-3m", "num_steps": 6, "schedule": Schedule(kind="logsnr", t_min=0.002)},
    "one step": {"num_steps": None, "sigma_init": 2.5},
}


def sampling(s: Settings) -> Rows:
    """Images a second from noise, in the chunks that the stages sample in."""
    prepare(s.on)
    net: NetDenoiser = construct(network(s)).eval().requires_grad_(False).to(s.on)
    noise = torch.randn(2 if s.tiny else CHUNK, *net.image_shape, generator=torch.Generator().manual_seed(0)).to(s.on)
    per_forward = forward_gflop(construct_empty(network(s), "the published network"))

    @torch.no_grad()
    def row(way: dict[str, Any], precision: str) -> Row:
        prepare(s.on, precision)
        net.autocast, sampler = AUTOCAST[precision], Sampler(**way)
        seconds, peak_mb = timed(s, lambda turn: sampler(net, noise))
        gflop = max(sampler.nfe, 1) * len(noise) * len(seconds) * per_forward
        return throughput(s.on, precision, seconds, len(noise), gflop, peak_mb)

    return {f"{name}, {precision}": partial(row, way, precision) for name, way in WAYS.items() for precision in PRECISIONS}


def features(s: Settings) -> Rows:
    """Inception's features, random weights, images 3x32x32 from the CPU and features back, as the metrics ask for them."""
    prepare(s.on)
    with tempfile.TemporaryDirectory(prefix="backtrail-gpu-") as folder:
        weights = write_random_weights(Path(folder) / "weights.pth")
        nets = {name: extractor(name, weights, s.on) for name in ("inception", "inception-clean")}

    def row(name: str, batch: int) -> Row:
        n = 2 if s.tiny else batch
        images = torch.randint(256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        seconds, peak_mb = timed(s, lambda turn: nets[name].features(images, n))
        return throughput(s.on, "float32", seconds, n, n * len(seconds) * inception_gflop(), peak_mb)

    return {f"{name}, batch {batch}": partial(row, name, batch) for name in nets for batch in (64, 256)}


def groups() -> list[Group]:
    """The rows of this part, what matters most first; the compiler comes last, since it takes a minute for each net."""
    return [
        *(Group(tuple(f"{method}, {p}" for p in PRECISIONS), partial(methods, method=method), 45.0) for method in ORDER),
        Group(tuple(f"{name}, {p}" for name in WAYS for p in PRECISIONS), sampling, 30.0),
        Group(tuple(f"{name}, batch {batch}" for name in ("inception", "inception-clean") for batch in (64, 256)), features, 30.0),
        Group(tuple(f"a step of Adam, {name}" for name in ADAMS), adams, 30.0),
        *(Group(tuple(f"diff-instruct, {p}, batch {n}" for p in ("float32", "bfloat16")), partial(batches, batch=n), 45.0) for n in SWEEP),
        *(Group((f"{method}, bfloat16, compiled",), partial(compiled, method=method), 150.0) for method in COMPILED),
    ]


assert set(ORDER) == set(CASES)
