"""Draws: functions of (seed, purpose, step) and the place in the whole batch, by golden values that no release may change."""

import pytest
import torch

from backtrail.randomness import Draw, Masks, Part, derive_seed, generator

DRAW = Draw(3, "distil", 5)
NORMAL = [0.026568, 1.116372, 0.841863]
INTEGERS = [970, 653, 561]
UNIFORM = [0.655777, 0.532194, 0.807992]
PERMUTATION = [0, 4, 3, 5, 1, 2]


def test_draws_have_the_values_of_every_release():
    assert DRAW.normal((3,)).tolist() == pytest.approx(NORMAL, abs=1e-6)
    assert DRAW.integers(1000, 3).tolist() == INTEGERS
    assert DRAW.uniform(3).tolist() == pytest.approx(UNIFORM, abs=1e-6)
    assert DRAW.permutation(6).tolist() == PERMUTATION


def test_the_first_hundred_thousand_images_start_from_noise_of_their_own():
    """Torch's generator on a CPU keeps 32 bits of a seed; the largest protocol takes three samplings of 50,000."""
    assert torch.equal(*(torch.randn(3, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5 + (1 << 32))))
    kept = [derive_seed(i, "image") & 0xFFFFFFFF for i in range(150_000)]
    assert len(set(kept[:100_000])) == 100_000 and kept[13831] == kept[149206] and len(set(kept)) == 149_999


def test_a_draw_of_a_draw_is_named_by_both_and_keeps_step_and_rows():
    part = Part(slice(1, 3), 4)
    assert DRAW.rows(part).of("z") == Draw(3, "distil-z", 5, part)
    assert torch.equal(DRAW.of("z").normal((2, 2)), torch.randn(2, 2, generator=generator(3, "distil-z", 5)))


def test_a_part_gets_its_rows_of_the_whole_batch():
    own = DRAW.rows(Part(slice(2, 5), 6))
    assert torch.equal(own.normal((6, 2)), DRAW.normal((6, 2))[2:5])
    assert torch.equal(own.integers(9, 6), DRAW.integers(9, 6)[2:5])
    assert torch.equal(own.uniform(6), DRAW.uniform(6)[2:5])
    assert own.integer(1000) == DRAW.integer(1000) and torch.equal(own.permutation(6), DRAW.permutation(6))
    assert own.batch(torch.zeros(3)) == 6 and DRAW.batch(torch.zeros(3)) == 3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_keeps_a_byte_a_value_for_the_backward_pass_and_the_layout(layout):
    x = torch.randn(3, 8, 4, 4, generator=generator(0, "test")).contiguous(memory_format=layout).requires_grad_()
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        y = Masks(7).dropout(x, 0.25, layer=1)
    assert sum(tensor.nbytes for tensor in saved) <= x.numel() + 8  # and a number
    assert y.is_contiguous(memory_format=layout)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(y, x * gradient) and set(gradient.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
