"""Torch's switches of a process, without what their public names drag in: torch's compiler, over a second of each process's start."""

from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


def deterministic(warn_only: bool = False) -> None:
    """Only algorithms that give the same bytes on every run; where there is none torch raises, or warns if `warn_only`.

    The same as `torch.use_deterministic_algorithms(True, warn_only=...)` for all that runs eagerly. That function also tells torch's
    compiler, and imports it to do so: a process that will use `torch.compile` calls the public one. (A process that makes an optimiser
    imports the compiler in any case: torch's `Optimizer.step` does.)
    """
    torch._C._set_deterministic_algorithms(True, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = False  # by default each new tensor is filled with NaN, to find what reads it


def bfloat16_is_slow() -> str | None:
    """A sentence if this processor has no arithmetic for bfloat16, else nothing. Where the processor is not told, nothing is said."""
    if not CPUINFO.exists():
        return None
    flags = CPUINFO.read_text(encoding="utf-8")
    if "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags.split():
        return None
    return (
        "runtime.precision = bfloat16, and this processor has neither AVX512-BF16 nor AMX: an update takes several times as long as in "
        "float32; set runtime.precision: float32, or run the stage on another machine"
    )
