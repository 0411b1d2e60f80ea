"""The switch under torch's public one does the same, without torch's compiler; slow bfloat16 is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from backtrail.running import determinism

SCRIPT = """
import sys, warnings, torch
from backtrail.running.determinism import deterministic
deterministic(warn_only={warn_only})
assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled() == {warn_only}
assert "torch._inductor" not in sys.modules and "torch._dynamo" not in sys.modules, "the compiler is imported"
assert not torch.utils.deterministic.fill_uninitialized_memory
index, x = torch.tensor([0, 0, 1]), torch.zeros(2)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        x.put_(index, torch.ones(3), accumulate=False)
        print("went on", len(caught))
    except RuntimeError as error:
        print("raised", "does not have a deterministic implementation" in str(error))
"""


@pytest.mark.parametrize(("warn_only", "expected"), [(False, "raised True"), (True, "went on 1")])
def test_the_switch_is_the_public_one_without_the_compiler(warn_only: bool, expected: str) -> None:
    """`put_` without accumulation has no deterministic form, on any device."""
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(warn_only=warn_only)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr


@pytest.mark.parametrize("flags", ["flags : avx2 avx512_bf16", "flags : amx_bf16 amx_tile", "Features : asimd bf16"])
def test_nothing_is_said_of_a_processor_with_bfloat16(flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(determinism, "CPUINFO", tmp_path / "cpuinfo")
    assert determinism.bfloat16_is_slow() is None  # no file: not a Linux
    (tmp_path / "cpuinfo").write_text(flags + "\n", encoding="utf-8")
    assert determinism.bfloat16_is_slow() is None
    (tmp_path / "cpuinfo").write_text("flags : avx2 fma avx512f\n", encoding="utf-8")
    assert "neither AVX512-BF16 nor AMX" in str(determinism.bfloat16_is_slow())
