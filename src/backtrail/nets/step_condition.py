"""The step condition of SFD-v (arXiv 2409.19681): a network that knows how many time stamps its sampler has."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from backtrail.nets.edm_layers import FourierFrequencies, waves
from backtrail.randomness import generator


class StepEmbedding(nn.Module):
    """The number of time stamps, raw (4 to 7 in the paper) [B] -> embedding [B, n_embedding].

    `endpoint`, `sine_first` and `fourier` (random frequencies of its own) follow the network's own embedding of the noise level.
    """

    def __init__(self, n_channels: int, n_embedding: int, endpoint: bool, sine_first: bool, fourier: bool = False):
        super().__init__()
        self.n_channels, self.endpoint, self.sine_first = n_channels, endpoint, sine_first
        self.code = FourierFrequencies(n_channels) if fourier else None
        self.layer0 = nn.Linear(n_channels, n_embedding)
        self.layer1 = nn.Linear(n_embedding, n_embedding)

    def forward(self, steps: Tensor) -> Tensor:
        return functional.silu(self.linear(steps))

    def linear(self, steps: Tensor) -> Tensor:
        """The embedding before its last activation."""
        cosine, sine = self.code(steps.float()) if self.code is not None else waves(steps.float(), self.n_channels, self.endpoint)
        code = torch.cat([sine, cosine] if self.sine_first else [cosine, sine], dim=1).to(self.layer0.weight.dtype)
        return self.layer1(functional.silu(self.layer0(code)))


def is_step_parameter(name: str) -> bool:
    """Whether a parameter of a network belongs to its step condition."""
    return "map_step." in name or "affine_step." in name


def add_step_condition(net: nn.Module, init: Literal["zero", "released"] = "zero", seed: int = 0) -> nn.Module:
    """A copy of `net` (SongUNet or DhariwalUNet, without a step condition) that can take one.

    zero      the blocks' new maps are zero: the copy equals `net` whatever the condition, until it is trained
    released  the random maps of the authors' code, with which the student does not start equal to its teacher:
              Xavier weights and zero biases in SongUNet, U(-1, 1) / sqrt(fan in) in DhariwalUNet

    The new random weights are a function of `seed` alone.
    """
    device = next(net.parameters()).device
    student = type(net)(net.configuration.model_copy(update={"step_condition": True})).to(device).train(net.training)
    own = {name: value for name, value in student.state_dict().items() if is_step_parameter(name)}
    student.load_state_dict({**net.state_dict(), **own}, strict=True)
    xavier = net.configuration.kind == "songunet"
    for index, (name, layer) in enumerate(student.named_modules()):
        if isinstance(layer, nn.Linear) and is_step_parameter(f"{name}.") and (init == "released" or "map_step." in name):
            randomise(layer, xavier, seed, index)
    if xavier and student.map_step.code is not None:
        frequencies = student.map_step.code.freqs
        frequencies.copy_(torch.randn(frequencies.shape, generator=generator(seed, "step-frequencies")) * 16)
    return student


@torch.no_grad()
def fold_step_condition(net: nn.Module, num_steps: int) -> nn.Module:
    """A copy of `net` (SongUNet or DhariwalUNet) without a step condition that answers as `net` does when it is told `num_steps`.

    Added before the second norm (SongUNet) the condition is a bias. After it (DhariwalUNet) two affine maps follow each other:
    (h (1 + s) + b) (1 + s') + b' = h (1 + s + s' + s s') + b (1 + s') + b', linear in the embedding that gives s and b.
    """
    embedding = net.map_step(torch.tensor([float(num_steps)], device=next(net.parameters()).device))[0]
    values = dict(net.state_dict())
    for name, block in net.named_modules():
        if getattr(block, "affine_step", None) is None:
            continue
        told, weight, bias = block.affine_step(embedding), values[f"{name}.affine.weight"], values[f"{name}.affine.bias"]
        if block.adaptive:
            scale, shift = told.chunk(2)
            factor = torch.cat([1 + scale, 1 + scale])
            weight, bias = weight * factor[:, None], bias * factor + torch.cat([scale, shift])
        else:
            bias = bias + told
        values[f"{name}.affine.weight"], values[f"{name}.affine.bias"] = weight, bias
    plain = type(net)(net.configuration.model_copy(update={"step_condition": False})).to(embedding.device).train(net.training)
    plain.load_state_dict({name: values[name] for name in plain.state_dict()}, strict=True)
    return plain


@torch.no_grad()
def randomise(layer: nn.Linear, xavier: bool, seed: int, index: int) -> None:
    """Draw a layer of the step condition, the one of that index, from the seed: by Xavier's rule, or as torch starts a linear layer."""
    random = generator(seed, "step-condition", index=index)
    bound = math.sqrt(6 / (layer.in_features + layer.out_features)) if xavier else 1 / math.sqrt(layer.in_features)
    layer.weight.copy_(torch.empty(layer.weight.shape).uniform_(-bound, bound, generator=random))
    layer.bias.copy_(torch.zeros(layer.bias.shape) if xavier else torch.empty(layer.bias.shape).uniform_(-bound, bound, generator=random))
