"""The step condition of SFD-v (arXiv 2409.19681) for U-Nets of the diffusers library, as the authors' code adds it to Stable Diffusion's.

An embedding of the number of time stamps lies beside that of time, and every residual block has a linear layer of its own for it, whose
output is added to that of its projection of time: h + W silu(e_t) + W' silu(e_steps). The library's U-Nets have no place for that. Here the
two embeddings travel as one vector through the library's own blocks, so that a block which is computed again in the backward pass is told
the same. All of the library's weights keep their names.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from backtrail.errors import UserError
from backtrail.nets.step_condition import StepEmbedding, is_step_parameter, randomise

# What a configuration may say of its blocks: the values of each key that leave room for a second embedding.
PLAIN: dict[str, tuple[Any, ...]] = {
    "resnet_skip_time_act": (False,),
    "time_embedding_act_fn": (None,),
    "class_embeddings_concat": (False,),
}


class StepsBesideTime(StepEmbedding):
    """Puts the embedding of the steps beside that of time, while the network is `told` them (float [B])."""

    told: Tensor | None = None

    def join(self, module: nn.Module, inputs: Any, time: Tensor) -> Tensor:
        """The embedding of time [B, n] -> [B, 2 n] with that of the steps behind it, which the blocks activate as they do the first."""
        return time if self.told is None else torch.cat([time, self.linear(self.told).to(time.dtype)], dim=1)

    def pad(self, module: nn.Module, inputs: Any, added: Tensor) -> Tensor:
        """What is added to the embedding of time (that of a class, or of a pooled text) [B, n] -> [B, 2 n], with nothing for the steps."""
        return added if self.told is None else functional.pad(added, (0, added.shape[1]))


class TimeAndSteps(nn.Linear):
    """A block's projection of time, [B, n] -> [B, C]; of time and steps, [B, 2 n], the sum of two projections."""

    def __init__(self, time: nn.Linear):
        super().__init__(time.in_features, time.out_features, device="meta")
        self.weight, self.bias = time.weight, time.bias
        self.affine_step = nn.Linear(time.in_features, time.out_features, device=time.weight.device, dtype=time.weight.dtype)

    def forward(self, embedding: Tensor) -> Tensor:
        if embedding.shape[1] == self.in_features:
            return super().forward(embedding)
        time, steps = embedding.split(self.in_features, dim=1)
        return super().forward(time) + self.affine_step(steps)


def no_place_for_steps(net: nn.Module) -> str | None:
    """What of a U-Net of the library leaves no place for the step condition, for a sentence; None if there is a place."""
    from diffusers.models.resnet import ResnetBlockCondNorm2D

    for key, allowed in PLAIN.items():
        if (found := net.config.get(key, allowed[0])) not in allowed:
            return f"{key} = {found!r}"
    return "adaptive group norms" if any(isinstance(module, ResnetBlockCondNorm2D) for module in net.modules()) else None


def tell_steps(net: nn.Module) -> nn.Module:
    """Give the U-Net itself the layers of the step condition, at the values of new layers; returns it.

    Raises UserError for blocks that have no place for them.
    """
    from diffusers.models.resnet import ResnetBlock2D

    if found := no_place_for_steps(net):
        raise UserError(f"the step condition (SFD-v) has no place in a U-Net with {found}: choose step_condition = none for this teacher")
    width = net.config.block_out_channels[0]
    embedding = net.time_embedding.linear_2
    like = {"device": embedding.weight.device, "dtype": embedding.weight.dtype}
    endpoint, sine_first = net.config.freq_shift == 1, not net.config.flip_sin_to_cos
    net.map_step = StepsBesideTime(width, embedding.out_features, endpoint, sine_first).to(**like)
    for module in list(net.modules()):
        if isinstance(module, ResnetBlock2D) and module.time_emb_proj is not None:
            module.time_emb_proj = TimeAndSteps(module.time_emb_proj)
    net.time_embedding.register_forward_hook(net.map_step.join)
    for name in ("class_embedding", "add_embedding"):
        if getattr(net, name, None) is not None:
            getattr(net, name).register_forward_hook(net.map_step.pad)
    return net


@torch.no_grad()
def start_steps(net: nn.Module, init: Literal["zero", "released"], seed: int) -> None:
    """The first values of a step condition: as `step_condition.add_step_condition` has them, `released` those of a fresh linear layer."""
    for index, (name, layer) in enumerate(net.named_modules()):
        if name.startswith("map_step.") and isinstance(layer, nn.Linear):
            randomise(layer, False, seed, index)
        elif isinstance(layer, TimeAndSteps):
            if init == "released":
                randomise(layer.affine_step, False, seed, index)
            else:
                layer.affine_step.weight.zero_(), layer.affine_step.bias.zero_()


@torch.no_grad()
def folded_weights(net: nn.Module, num_steps: int) -> dict[str, Tensor]:
    """The weights of the same U-Net without a step condition that answers as this one does when it is told `num_steps`."""
    embedding = net.map_step.linear(torch.tensor([float(num_steps)], device=net.device))
    values = dict(net.state_dict())
    for name, block in net.named_modules():
        if isinstance(projection := getattr(block, "time_emb_proj", None), TimeAndSteps):
            told = projection.affine_step(block.nonlinearity(embedding))[0]
            values[f"{name}.time_emb_proj.bias"] = values[f"{name}.time_emb_proj.bias"] + told
    return {name: value for name, value in values.items() if not is_step_parameter(name)}
