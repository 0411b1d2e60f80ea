"""A stage's process touches fresh pages once, not with every activation."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from backtrail.running.memory import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
sums = []
for _ in range(48):
    if len(sums) == 8:  # where the heap puts the first blocks differs from process to process
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    sums.append(torch.ones(16, 1024, 1024).sum().item())
assert set(sums) == {2.0**24}
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages touched first in forty rounds with a tensor of 64 MiB each."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back with each block")
def test_freed_memory_is_used_again() -> None:
    fresh, kept = faults("default"), faults("keep")
    assert fresh > 100 and kept < fresh / 10, (fresh, kept)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from backtrail.running.memory import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


def test_a_stage_is_deterministic_and_does_not_fill_new_tensors() -> None:
    program = (
        "import torch\nfrom backtrail.running.torch_stage import configure\nfrom backtrail.parameters.runtime import Runtime\n"
        "filled = lambda: bool(torch.empty(9).isnan().all())\n"
        "torch.use_deterministic_algorithms(True)\nassert filled()\n"
        "configure(Runtime(threads=1), torch.device('cpu'))\nassert not filled()\n"
        "assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
