"""The EDM networks against an independent float64 computation of the same formulas, and their blocks against diffusers'."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from edm_pickles import randomised
from torch import Tensor

from backtrail.denoiser import Condition
from backtrail.nets.blocks import attention, norm_silu
from backtrail.nets.build import construct_empty
from backtrail.nets.dhariwal import DhariwalConfiguration, DhariwalUNet
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.edm_layers import ResampleConv2d, UNetBlock
from backtrail.nets.songunet import SongUNet, SongUNetConfiguration
from backtrail.nets.step_condition import add_step_condition, fold_step_condition, is_step_parameter
from backtrail.nets.weights import fill
from backtrail.randomness import dropout_masks

torch.set_num_threads(1)

SMALL = {"img_resolution": 16, "in_channels": 3, "out_channels": 3, "num_blocks": 1, "attn_resolutions": (8,)}
NCSN = {"embedding_type": "fourier", "channel_mult_noise": 2, "resample_filter": (1, 3, 3, 1)}
NETS = {
    "ddpmpp": SongUNetConfiguration(**SMALL, model_channels=16, channel_mult=(1, 2, 2), augment_dim=9),
    "ddpmpp-cond": SongUNetConfiguration(**SMALL, model_channels=16, channel_mult=(2, 2), label_dim=5),
    "ncsnpp": SongUNetConfiguration(**SMALL, model_channels=16, channel_mult=(1, 2, 2), encoder_type="residual", **NCSN),
    "skip": SongUNetConfiguration(**SMALL, model_channels=16, channel_mult=(1, 2, 2), encoder_type="skip", decoder_type="skip", **NCSN),
    "adm": DhariwalConfiguration(**SMALL, model_channels=64, channel_mult=(1, 2, 3), label_dim=5),
}


def random_net(configuration: SongUNetConfiguration | DhariwalConfiguration) -> SongUNet | DhariwalUNet:
    return randomised(EDMTeacher(preconditioning=EDM(), net=configuration)).net


# The reference: float64 numpy, one pixel loop per kernel tap, explicit matrices for resampling, softmax written out. It reads the weights
# by their released names and knows the architecture from the papers alone.


class Reference:
    def __init__(self, weights: Mapping[str, Tensor], c: SongUNetConfiguration | DhariwalConfiguration):
        self.w = {name: value.double().numpy() for name, value in weights.items()}
        self.c, self.song = c, isinstance(c, SongUNetConfiguration)
        self.taps = np.array(c.resample_filter if self.song else (1, 1), dtype=float)

    def conv(self, x: np.ndarray, name: str) -> np.ndarray:
        kernel = self.w[f"{name}.weight"]
        pad = kernel.shape[-1] // 2
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        height, width = x.shape[2:]
        out = np.zeros((x.shape[0], kernel.shape[0], height, width))
        for i in range(kernel.shape[-1]):
            for j in range(kernel.shape[-1]):
                out += np.einsum("bchw,oc->bohw", padded[:, :, i : i + height, j : j + width], kernel[:, :, i, j])
        return out + self.w[f"{name}.bias"][:, None, None]

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0)

    def norm(self, x: np.ndarray, name: str, eps: float) -> np.ndarray:
        channels = x.shape[1]
        groups = x.reshape(len(x), min(32, channels // 4), -1)
        groups = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + eps)
        return groups.reshape(x.shape) * self.w[f"{name}.weight"][:, None, None] + self.w[f"{name}.bias"][:, None, None]

    def halving(self, n: int) -> np.ndarray:
        """Matrix [n/2, n] that filters and keeps every other sample, zero outside."""
        matrix, start = np.zeros((n // 2, n)), -((len(self.taps) - 1) // 2)
        for row in range(n // 2):
            for k, tap in enumerate(self.taps):
                if 0 <= 2 * row + start + k < n:
                    matrix[row, 2 * row + start + k] = tap / self.taps.sum()
        return matrix

    def resample(self, x: np.ndarray, up: bool) -> np.ndarray:
        n = x.shape[-1]
        matrix = 2 * self.halving(2 * n).T if up else self.halving(n)
        return np.einsum("ih,bchw,jw->bcij", matrix, x, matrix)

    def block(self, x: np.ndarray, name: str, embedding: np.ndarray, direction: str = "") -> np.ndarray:
        eps, scale = (1e-6, math.sqrt(0.5)) if self.song else (1e-5, 1.0)
        moved = (lambda v: self.resample(v, direction == "up")) if direction else (lambda v: v)
        h = self.conv(moved(silu(self.norm(x, f"{name}.norm0", eps))), f"{name}.conv0")
        shift = self.linear(embedding, f"{name}.affine")[:, :, None, None]
        if self.song:
            h = self.norm(h + shift, f"{name}.norm1", eps)
        else:
            half = shift.shape[1] // 2
            h = self.norm(h, f"{name}.norm1", eps) * (1 + shift[:, :half]) + shift[:, half:]
        h = self.conv(silu(h), f"{name}.conv1")
        skip = self.conv(moved(x), f"{name}.skip") if f"{name}.skip.weight" in self.w else moved(x)
        x = (skip + h) * scale
        if f"{name}.qkv.weight" in self.w:
            x = (x + self.conv(self.attend(self.conv(self.norm(x, f"{name}.norm2", eps), f"{name}.qkv")), f"{name}.proj")) * scale
        return x

    def attend(self, qkv: np.ndarray) -> np.ndarray:
        batch, _, height, width = qkv.shape
        heads = 1 if self.song else qkv.shape[1] // 3 // 64
        parts = qkv.reshape(batch, heads, -1, 3, height * width)
        q, k, v = parts[:, :, :, 0], parts[:, :, :, 1], parts[:, :, :, 2]
        weights = np.exp(np.einsum("bncq,bnck->bnqk", q, k) / math.sqrt(q.shape[2]))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("bnqk,bnck->bncq", weights, v).reshape(batch, -1, height, width)

    def embed(self, c_noise: np.ndarray, labels: list[int] | None) -> np.ndarray:
        c = self.c
        n = c.model_channels * (c.channel_mult_noise if self.song else 1) // 2
        if "map_noise.freqs" in self.w:
            frequencies = 2 * math.pi * self.w["map_noise.freqs"]
        else:
            frequencies = 10000.0 ** -(np.arange(n) / (n - 1 if self.song else n))
        waves = [f(c_noise[:, None] * frequencies) for f in ((np.sin, np.cos) if self.song else (np.cos, np.sin))]
        e, classes = np.concatenate(waves, 1), np.zeros((len(c_noise), c.label_dim))
        for row, label in enumerate(labels or []):
            classes[row, label] = 1
        if self.song:
            e = e + (self.linear(classes * math.sqrt(c.label_dim), "map_label") if c.label_dim else 0)
            return silu(self.linear(silu(self.linear(e, "map_layer0")), "map_layer1"))
        return silu(self.linear(silu(self.linear(e, "map_layer0")), "map_layer1") + self.linear(classes, "map_label"))

    def __call__(self, x: np.ndarray, c_noise: np.ndarray, labels: list[int] | None = None) -> np.ndarray:
        e, c, sizes = self.embed(c_noise, labels), self.c, [self.c.img_resolution >> level for level in range(len(self.c.channel_mult))]
        image, skips, small = x, [], None
        for n in sizes:
            x = self.conv(x, f"enc.{n}x{n}_conv") if n == sizes[0] else self.block(x, f"enc.{n}x{n}_down", e, "down")
            if f"enc.{n}x{n}_aux_skip.weight" in self.w:
                image = self.resample(image, up=False)
                x = x + self.conv(image, f"enc.{n}x{n}_aux_skip")
            if f"enc.{n}x{n}_aux_residual.weight" in self.w:
                image = x = (x + self.fused(image, f"enc.{n}x{n}_aux_residual")) / math.sqrt(2)
            skips.append(x)
            for i in range(c.num_blocks):
                x = self.block(x, f"enc.{n}x{n}_block{i}", e)
                skips.append(x)
        for n in sizes[::-1]:
            if n == sizes[-1]:
                x = self.block(self.block(x, f"dec.{n}x{n}_in0", e), f"dec.{n}x{n}_in1", e)
            else:
                x = self.block(x, f"dec.{n}x{n}_up", e, "up")
            for i in range(c.num_blocks + 1):
                x = self.block(np.concatenate([x, skips.pop()], 1), f"dec.{n}x{n}_block{i}", e)
            if f"dec.{n}x{n}_aux_conv.weight" in self.w:
                part = self.conv(silu(self.norm(x, f"dec.{n}x{n}_aux_norm", 1e-6)), f"dec.{n}x{n}_aux_conv")
                small = part if small is None else part + self.resample(small, up=True)
        return small if self.song else self.conv(silu(self.norm(x, "out_norm", 1e-5)), "out_conv")

    def fused(self, x: np.ndarray, name: str) -> np.ndarray:
        """Convolution on an image with a margin as wide as the filter's, then the filter without one, then every other pixel."""
        margin = (len(self.taps) - 1) // 2
        bias = self.w[f"{name}.bias"][:, None, None]
        wide = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        y = self.conv(wide, name) - bias  # includes the border pixels at which the 3x3 window overlaps the margin
        n = x.shape[-1] // 2
        matrix = np.zeros((n, 2 * n + 2 * margin))
        for row in range(n):
            matrix[row, 2 * row : 2 * row + len(self.taps)] = self.taps / self.taps.sum()
        return np.einsum("ih,bchw,jw->bcij", matrix, y, matrix) + bias


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", NETS)
def test_networks_agree_with_an_independent_computation(name):
    net = random_net(NETS[name])
    random = torch.Generator().manual_seed(1)
    x, c_noise = torch.randn(2, 3, 16, 16, generator=random), torch.tensor([-0.4, 0.9])
    labels = [4, 1] if NETS[name].label_dim else None
    expected = torch.from_numpy(Reference(net.state_dict(), NETS[name])(x.double().numpy(), c_noise.double().numpy(), labels))
    condition = Condition(labels=torch.tensor(labels)) if labels else None
    assert relative(net.double()(x.double(), c_noise.double(), condition), expected) < 2e-7  # float32 frequencies: see `waves`
    assert relative(net.float()(x, c_noise, condition), expected) < 5e-6


@pytest.mark.parametrize("name", ["ddpmpp-cond", "adm"])
def test_no_label_and_the_null_label_are_the_same_and_a_label_is_not(name):
    net, x, c_noise = random_net(NETS[name]), torch.randn(2, 3, 16, 16), torch.tensor([0.1, 0.2])
    none = net(x, c_noise)
    assert torch.equal(none, net(x, c_noise, Condition(labels=torch.tensor([5, 5]))))
    first = net(x, c_noise, Condition(labels=torch.tensor([2, 5])))
    assert relative(first[0], none[0]) > 1e-3 and relative(first[1], none[1]) < 1e-6


def test_the_network_computes_in_the_dtype_of_its_weights():
    net, x, c_noise = random_net(NETS["ddpmpp"]), torch.randn(2, 3, 16, 16), torch.tensor([0.1, 0.2])
    expected = net(x, c_noise)
    assert torch.equal(net(x.double(), c_noise), expected)
    low = net.bfloat16()(x, c_noise)
    assert low.dtype == torch.bfloat16 and 1e-4 < relative(low, expected) < 0.2


def test_dropout_acts_in_training_mode_alone():
    net, x, c_noise = random_net(NETS["ddpmpp"]), torch.randn(1, 3, 16, 16), torch.tensor([0.1])
    assert torch.equal(net(x, c_noise), net(x, c_noise))
    assert not torch.equal(net.train()(x, c_noise), net(x, c_noise))


# Blocks against diffusers


def block_pair(adaptive: bool, n_in: int, n_out: int, scale: float) -> tuple[UNetBlock, torch.nn.Module]:
    from diffusers.models.resnet import ResnetBlock2D

    torch.manual_seed(0)
    ours = UNetBlock(n_in, n_out, 24, adaptive=adaptive, skip_scale=scale, eps=1e-6)
    theirs = ResnetBlock2D(
        in_channels=n_in,
        out_channels=n_out,
        temb_channels=24,
        groups=min(32, n_in // 4),
        groups_out=min(32, n_out // 4),
        eps=1e-6,
        time_embedding_norm="scale_shift" if adaptive else "default",
        output_scale_factor=1 / scale,
        skip_time_act=True,
    )
    names = {"norm0": "norm1", "conv0": "conv1", "affine": "time_emb_proj", "norm1": "norm2", "conv1": "conv2", "skip": "conv_shortcut"}
    weights = {names[name.split(".")[0]] + "." + name.split(".")[1]: value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(weights, strict=True)
    return ours, theirs


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("n_out", [32, 48])
def test_residual_block_agrees_with_diffusers(adaptive, n_out):
    ours, theirs = block_pair(adaptive, 32, n_out, math.sqrt(0.5))
    x, embedding = torch.randn(2, 32, 6, 6), torch.randn(2, 24)
    assert relative(ours(x, embedding), theirs(x, embedding)) < 1e-6


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_agrees_with_diffusers(heads):
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    block = UNetBlock(32, 32, 8, n_heads=heads)
    theirs = Attention(32, heads=heads, dim_head=32 // heads, bias=True)
    # Ours interleaves the rows (head, channel, q k v); theirs keeps three matrices.
    rows = block.qkv.weight[:, :, 0, 0].reshape(heads, 32 // heads, 3, 32)
    biases = block.qkv.bias.reshape(heads, 32 // heads, 3)
    for index, layer in enumerate((theirs.to_q, theirs.to_k, theirs.to_v)):
        layer.weight.data = rows[:, :, index].reshape(32, 32)
        layer.bias.data = biases[:, :, index].reshape(32)
    theirs.to_out[0].weight.data, theirs.to_out[0].bias.data = block.proj.weight[:, :, 0, 0], block.proj.bias
    x = torch.randn(2, 32, 4, 4)
    expected = theirs(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
    assert relative(block.proj(block._attend(x)), expected) < 1e-6


def test_short_filters_are_means_and_copies():
    x = torch.randn(1, 4, 8, 8)
    down, up = (ResampleConv2d(4, 4, 0, up=up, taps=(1, 1)) for up in (False, True))
    assert torch.allclose(down(x), torch.nn.functional.avg_pool2d(x, 2), atol=1e-6)
    assert torch.equal(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


# The step condition


STEP_PARAMETERS = {"ddpmpp-cifar10": 4_662_528, "ddpmpp-ffhq": 5_450_496, "adm-imagenet": 28_201_344}  # SFD: 4.66, 5.45 and 28.20 M
FULL = {
    "ddpmpp-cifar10": SongUNetConfiguration(img_resolution=32, in_channels=3, out_channels=3, channel_mult=(2, 2, 2)),
    "ddpmpp-ffhq": SongUNetConfiguration(img_resolution=64, in_channels=3, out_channels=3),
    "adm-imagenet": DhariwalConfiguration(img_resolution=64, in_channels=3, out_channels=3, label_dim=1000),
}


@pytest.mark.parametrize("name", FULL)
def test_step_condition_has_the_released_number_of_parameters(name):
    with torch.device("meta"):
        build = SongUNet if isinstance(FULL[name], SongUNetConfiguration) else DhariwalUNet
        net = build(FULL[name].model_copy(update={"step_condition": True}))
    assert sum(p.numel() for n, p in net.named_parameters() if is_step_parameter(n)) == STEP_PARAMETERS[name]


@pytest.mark.parametrize("name", ["ddpmpp", "adm"])
def test_a_new_step_condition_changes_nothing_until_it_is_trained(name):
    net, x, c_noise = random_net(NETS[name]), torch.randn(2, 3, 16, 16), torch.tensor([0.1, 0.2])
    student = add_step_condition(net)
    steps = Condition(steps=torch.tensor([4.0, 7.0]))
    assert torch.equal(student(x, c_noise, steps), net(x, c_noise)) and torch.equal(student(x, c_noise), net(x, c_noise))
    student.requires_grad_(True)(x, c_noise, steps).square().mean().backward()
    gradients = {n: float(p.grad.abs().max()) for n, p in student.named_parameters() if "affine_step" in n}
    assert gradients and all(value > 0 for value in gradients.values())


@pytest.mark.parametrize("name", ["ddpmpp", "adm"])
def test_the_released_start_is_random_but_a_function_of_the_seed(name):
    net, x, c_noise = random_net(NETS[name]), torch.randn(2, 3, 16, 16), torch.tensor([0.1, 0.2])
    steps = Condition(steps=torch.tensor([4.0, 7.0]))
    first, again, other = (add_step_condition(net, "released", seed)(x, c_noise, steps) for seed in (0, 0, 1))
    assert torch.equal(first, again) and relative(first, net(x, c_noise)) > 1e-3 and relative(first, other) > 1e-3
    student = add_step_condition(net, "released")
    layer = student.get_submodule("dec.4x4_in0").affine_step
    fan_in, fan_out = layer.in_features, layer.out_features
    bound = math.sqrt(6 / (fan_in + fan_out)) if name == "ddpmpp" else 1 / math.sqrt(fan_in)
    assert 0.98 * bound < layer.weight.abs().max() <= bound
    assert (layer.bias == 0).all() == (name == "ddpmpp")


def test_adaptive_blocks_apply_the_step_after_the_noise_level():
    """SFD's ADM block: h = norm(h) (1 + s) + b, then h (1 + s') + b'."""
    torch.manual_seed(0)
    block = UNetBlock(16, 16, 8, step=True)
    torch.nn.init.normal_(block.affine_step.weight)
    hidden, embedding, step = torch.randn(2, 16, 4, 4), torch.randn(2, 8), torch.randn(2, 8)
    s, b = block.affine(embedding)[:, :, None, None].chunk(2, 1)
    s2, b2 = block.affine_step(step)[:, :, None, None].chunk(2, 1)
    expected = (block.norm1(hidden) * (1 + s) + b) * (1 + s2) + b2
    assert torch.allclose(block._modulate(hidden, embedding, step), torch.nn.functional.silu(expected), atol=1e-5)


def test_fourier_nets_take_a_fourier_step_condition():
    """SFD's code builds the step's embedding as it builds the noise level's; the new frequencies are a function of the seed."""
    net, x, c_noise = random_net(NETS["ncsnpp"]), torch.randn(2, 3, 16, 16), torch.tensor([0.1, 0.2])
    first, again, other = (add_step_condition(net, "released", seed) for seed in (0, 0, 1))
    frequencies = first.map_step.code.freqs
    assert torch.equal(frequencies, again.map_step.code.freqs) and not torch.equal(frequencies, other.map_step.code.freqs)
    assert 8 < frequencies.std() < 24 and torch.equal(first.map_noise.freqs, net.map_noise.freqs)
    phases = 5.0 * (2 * math.pi * frequencies)  # in this order: the phases reach thousands
    code = torch.cat([phases.sin(), phases.cos()])[None]
    expected = first.map_step.layer1(torch.nn.functional.silu(first.map_step.layer0(code)))
    assert torch.allclose(first.map_step(torch.tensor([5.0])), torch.nn.functional.silu(expected), atol=1e-5)
    told = first(x, c_noise, Condition(steps=torch.tensor([5.0, 5.0])))
    assert relative(fold_step_condition(first, 5)(x, c_noise), told) < 1e-5


# What EDM's classes take


@pytest.mark.parametrize(
    ("changed", "error"),
    [({"resample_filter": (0.25, 0.75, 0.75, 0.25)}, 2e-7), ({"model_channels": 4}, 2e-7), ({"dropout": 1.0}, 2e-7)],
)
def test_whatever_edm_takes_is_taken(changed, error):
    configuration = SongUNetConfiguration(**{**SMALL, "model_channels": 16, "channel_mult": (1, 2, 2)} | changed)
    net = random_net(configuration).double()
    x, c_noise = torch.randn(2, 3, 16, 16).double(), torch.tensor([-0.4, 0.9]).double()
    expected = torch.from_numpy(Reference(net.state_dict(), configuration)(x.numpy(), c_noise.numpy()))
    assert relative(net(x, c_noise), expected) < error
    assert net.train()(x, c_noise).isfinite().all()
    with dropout_masks(0, "test", 0):
        assert net(x, c_noise).isfinite().all()


def test_a_filter_that_sums_to_zero_is_refused():
    with pytest.raises(ValueError, match="should not be 0"):
        SongUNetConfiguration(**SMALL, resample_filter=(1, -1))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 0.0), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_nets_of_another_width_compute_in_float32(dtype, error):
    configuration = EDMTeacher(preconditioning=EDM(), net=NETS["ddpmpp"])
    denoiser, x, sigma = randomised(configuration), torch.randn(2, 3, 16, 16), torch.tensor([0.5, 2.0])
    stored = {name: value.to(dtype) for name, value in denoiser.state_dict().items()}
    read = fill(construct_empty(configuration, "file"), stored, "file", "cure")
    assert {weight.dtype for weight in read.parameters()} == {torch.float32}
    found, expected = read(x, sigma), denoiser(x, sigma)
    assert relative(found, expected) <= error and torch.equal(found, expected) == (error == 0)


@pytest.mark.parametrize("name", NETS)
def test_channels_last_decides_nothing_but_speed(name):
    """Values, gradients and dropout masks within float error."""
    net, found = random_net(NETS[name]).train().requires_grad_(True), []
    x, c_noise = torch.randn(2, 3, 16, 16), torch.tensor([-0.4, 0.9])
    for layout in (torch.contiguous_format, torch.channels_last):
        net.to(memory_format=layout).zero_grad()
        with dropout_masks(0, "test", 0):
            y = net(x.contiguous(memory_format=layout), c_noise)
        y.square().mean().backward()
        found.append([y, torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])])
    assert all(relative(b, a) < 1e-4 for a, b in zip(*found, strict=True))


def test_a_norm_that_is_computed_again_has_the_gradients_of_one_that_is_kept():
    torch.manual_seed(0)
    norm, x = torch.nn.GroupNorm(4, 16).double(), torch.randn(2, 16, 3, 3, dtype=torch.float64, requires_grad=True)
    torch.nn.init.normal_(norm.weight)
    kept = torch.nn.functional.silu(norm(x))
    assert torch.equal(norm_silu(norm, x), kept)
    assert torch.autograd.gradcheck(lambda x: norm_silu(norm, x), x)
    both = [torch.autograd.grad(y.square().sum(), [x, *norm.parameters()]) for y in (kept, norm_silu(norm, x))]
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(*both, strict=True))
    norm.requires_grad_(False)
    norm_silu(norm, x).sum().backward()
    assert norm.weight.grad is None and x.grad is not None


def test_both_ways_of_attention_agree():
    q, k, v = torch.randn(3, 2, 2, 8, 9, dtype=torch.float64)
    expected = torch.nn.functional.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
    assert torch.allclose(attention(q, k, v), expected, rtol=1e-12)
