"""What a suite costs on this machine: the work that `plan` counts, at the speed at which the suite's own network runs here."""

import os
import time
from dataclasses import dataclass

import pandas as pd
import torch

from backtrail.cli.compute_cost import count, forward_gflop, inception_gflop, n_readers
from backtrail.cli.plan import A100_HALF_TFLOPS, operations
from backtrail.denoiser import NetDenoiser
from backtrail.laid_down import declared_stages
from backtrail.nets.build import build
from backtrail.parameters.suite import Suite
from backtrail.parameters.teacher import Teacher

MEASURED_BATCH = 16  # images per forward
MEASURED_S = 0.5  # at the least
CORES = 2  # of a laptop that does something else besides
AROUND_A_STAGE_S = 8.0  # CPU seconds: importing torch 3.0, DVC 2.3, reading and measuring images


@dataclass(frozen=True)
class Cost:
    """What a suite costs, by kind of stage: a row with `stage`, `jobs`, `forwards` and `minutes`; and at what speed that was counted."""

    table: pd.DataFrame
    n_stages: int
    where: str

    @property
    def minutes(self) -> float:
        """Minutes that the networks compute, one stage after the other."""
        return float(self.table["minutes"].sum())

    @property
    def wall_minutes(self) -> float:
        """Minutes with `at_once` stages at once, each with what starts, reads and records it."""
        return (self.minutes + self.n_stages * AROUND_A_STAGE_S / 60) / self.at_once

    @property
    def at_once(self) -> int:
        """Stages at once: one for each core that this process may use, but no more than on the two that a person has at the least."""
        return min(CORES, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)

    def lines(self) -> list[str]:
        """Stages, minutes of each and of all, as lines."""
        return [
            f"Cost {self.where}:",
            *shown(self.table).splitlines(),
            f"{self.n_stages} stages; the networks compute for about {duration(self.minutes)} in all, and every stage takes some seconds "
            "to start, to measure and to be recorded",
        ]


def cost_of(suite: Suite, teacher: NetDenoiser | None, device: str) -> Cost:
    """What the suite costs on this machine; `teacher` is the imported one, `device` is cpu or gpu.

    Called in the suite's folder. Its minutes leave out reading images into features other than Inception's, and starting and recording each
    stage.
    """
    denoiser = build(suite.teacher.net, 0.5) if isinstance(suite.teacher, Teacher) else teacher
    if denoiser is None:
        raise ValueError("a suite with an imported teacher is counted with that teacher")
    per_forward = forward_gflop(denoiser)
    n_threads = suite.runtime.threads
    if device == "gpu" and not torch.cuda.is_available():
        rate, where = A100_HALF_TFLOPS, "on an A100 in half precision, since no GPU is here"
    else:
        rate = tflops_of(denoiser, per_forward, "cuda" if device == "gpu" else "cpu", n_threads)
        where = "on this GPU" if device == "gpu" else f"on this CPU, threads: {n_threads}"
    table = operations(list(count(suite)), per_forward, inception_gflop() if n_readers(suite) else 0.0)
    table["minutes"] = table["tflop"] / rate / 60
    n_weights = sum(parameter.numel() for parameter in denoiser.parameters())
    n_stages = sum(1 for _ in declared_stages())
    where += f" (an estimate: {n_weights:,} weights, {per_forward:.3g} GFLOP per forward, {rate:.2g} TFLOP/s)"
    return Cost(table, n_stages, where)


def tflops_of(denoiser: NetDenoiser, per_forward: float, device: str, threads: int) -> float:
    """10^12 operations a second that the denoiser's forwards do on the device."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    net = denoiser.eval().to(device)
    images, sigma = torch.zeros(MEASURED_BATCH, *net.image_shape, device=device), torch.ones(MEASURED_BATCH, device=device)
    try:
        with torch.no_grad():
            float(net(images, sigma).sum())  # once to warm up; the sum waits for a GPU
            clock = time.process_time if device == "cpu" else time.perf_counter  # what others compute here is left out
            start, n = clock(), 0
            while (elapsed := clock() - start) < MEASURED_S or not n:
                float(net(images, sigma).sum())
                n += 1
    finally:
        net.to("cpu")
        torch.set_num_threads(before)
    seconds = elapsed / threads if device == "cpu" else elapsed
    return n * MEASURED_BATCH * per_forward / 1000 / seconds


def shown(table: pd.DataFrame) -> str:
    """A row per kind of stage."""
    columns = table.assign(forwards=table["forwards"].map("{:.1e}".format), minutes=table["minutes"].map("{:.1f}".format))
    return columns[["stage", "jobs", "forwards", "minutes"]].to_string(index=False)


def duration(minutes: float) -> str:
    """In the unit that a person would use."""
    if minutes < 1.5:
        return "a minute"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
