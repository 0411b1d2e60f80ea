"""Winograd's algorithm is a convolution: values and gradients, in float64 exactly, in float32 as near as torch's own."""

import pytest
import torch
from torch.nn import functional

from backtrail.nets import convolution as module
from backtrail.nets.convolution import LEAST_CHANNELS, Convolution, Winograd, convolution, winograd_pays


def drawn(batch: int, n_in: int, n_out: int, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((batch, n_in, *size), (n_out, n_in, 3, 3), (n_out,))
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def gradients(y: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(
        torch.autograd.grad((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum(), inputs, retain_graph=True)
    )


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("chunk", [1, 100, 1 << 13])
def test_in_float64_it_is_the_convolution_to_the_last_digits(layout, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    x, weight, bias = drawn(3, 5, 7, (8, 12), torch.float64)
    y = Winograd.apply(x.contiguous(memory_format=layout), weight, bias)
    expected = functional.conv2d(x, weight, bias, padding=1)
    assert y.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip([y, *gradients(y, [x, weight, bias])], [expected, *gradients(expected, [x, weight, bias])], strict=True):
        assert relative(a, b) < 1e-13
    assert torch.autograd.gradcheck(lambda *inputs: Winograd.apply(*inputs), drawn(1, 2, 3, (4, 8), torch.float64))


def test_in_float32_it_errs_no_more_than_a_few_times_as_torch_does():
    inputs = drawn(2, 128, 128, (16, 16))
    exact = [t.detach().double().requires_grad_() for t in inputs]
    truth = functional.conv2d(*exact, padding=1)
    assert winograd_pays(*inputs[:2])
    errors = [
        [relative(a, b) for a, b in zip([y, *gradients(y, inputs)], [truth, *gradients(truth, exact)], strict=True)]
        for y in (convolution(*inputs), functional.conv2d(*inputs, padding=1))
    ]
    assert all(ours < 4e-6 and ours < 8 * torchs for ours, torchs in zip(*errors, strict=True))


def test_gradients_that_nobody_asks_for_are_not_computed():
    x, weight, bias = drawn(1, 2, 3, (4, 4), torch.float64)
    weight.requires_grad_(False)
    y = Winograd.apply(x, weight, None)
    y.sum().backward()
    assert weight.grad is None and bias.grad is None and x.grad is not None


def test_an_image_does_not_depend_on_its_batch():
    x, weight, bias = drawn(5, LEAST_CHANNELS, LEAST_CHANNELS, (32, 32))
    whole = convolution(x, weight, bias)
    assert relative(convolution(x[3:], weight, bias), whole[3:]) < 1e-6


@pytest.mark.parametrize(
    ("n_in", "kernel", "size", "dtype", "pays"),
    [
        (LEAST_CHANNELS, 3, 32, torch.float32, True),
        (LEAST_CHANNELS - 1, 3, 32, torch.float32, False),
        (LEAST_CHANNELS, 1, 32, torch.float32, False),
        (LEAST_CHANNELS, 3, 30, torch.float32, False),
        (LEAST_CHANNELS, 3, 8, torch.float32, False),
        (LEAST_CHANNELS, 3, 32, torch.float64, False),
    ],
)
def test_it_is_chosen_where_it_pays(n_in, kernel, size, dtype, pays):
    layer, x = Convolution(n_in, LEAST_CHANNELS, kernel).to(dtype), torch.randn(1, n_in, size, size, dtype=dtype)
    assert winograd_pays(x, layer.weight) == pays
    assert not winograd_pays(x.to("meta"), layer.weight)
    with torch.autocast("cpu"):
        assert not winograd_pays(x, layer.weight)
    assert relative(layer(x), functional.conv2d(x, layer.weight, layer.bias, padding=kernel // 2)) < 4e-6
