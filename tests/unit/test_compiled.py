"""torch's compiler and dropout in training: the same numbers as without it, one graph, compiled once for all steps.

With the backend that leaves out the kernels: it traces and differentiates as the default one does, and needs no C++ compiler.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from backtrail.nets.build import build
from backtrail.parameters.net import UNetParameters
from backtrail.randomness import dropout_masks

NET = UNetParameters(image_channels=1, resolution=4, stem=1, channels=[8, 16], blocks=1, attention_levels=[], dropout=0.3)


@pytest.fixture
def count():
    """Calls of the compiler's backend."""
    torch._dynamo.reset()
    yield CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()


def test_dropout_in_training_can_be_compiled_once_for_all_steps(count):
    net = build(NET, 0.5).net.train()
    torch.nn.init.normal_(net.head.weight)  # it starts at zero, which would hide what comes before
    compiled, x, noise = torch.compile(net, backend=count, fullgraph=True), torch.randn(3, 1, 4, 4), torch.zeros(3)
    for step in range(4):
        found = []
        for compute in (net, compiled):
            net.zero_grad()
            with dropout_masks(0, "test", step, first_row=2 * step):
                y = compute(x, noise)
            y.square().sum().backward()
            found.append([y.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])])
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*found, strict=True)), step
    assert count.frame_count == 1
