"""DhariwalUNet: the ADM network of arXiv 2105.05233 in the form of arXiv 2206.00364 (Table 7, column ADM)."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from backtrail.denoiser import Condition
from backtrail.nets.blocks import Net, laid_out, norm_silu, number_layers
from backtrail.nets.convolution import Convolution
from backtrail.nets.edm_layers import UNetBlock, group_norm, one_hot, scale_name, waves
from backtrail.nets.songunet import Multipliers, Resolutions
from backtrail.nets.step_condition import StepEmbedding
from backtrail.parameters.base import Section

CHANNELS_PER_HEAD = 64


class DhariwalConfiguration(Section):
    """The architecture; the defaults are those of the released ImageNet-64 network. Field names are the checkpoints'."""

    kind: Literal["dhariwal"] = "dhariwal"
    img_resolution: int = Field(ge=4, le=1024, description="height and width of an image, pixels")
    in_channels: int = Field(ge=1, le=64, description="channels of the input")
    out_channels: int = Field(ge=1, le=64, description="channels of the output")
    label_dim: int = Field(0, ge=0, le=100_000, description="number of classes; 0: unconditional")
    augment_dim: int = Field(0, ge=0, le=64, description="length of the augmentation label, fed with zeros here; 0: none")
    model_channels: int = Field(192, ge=4, le=1024, multiple_of=4, description="base number of channels")
    channel_mult: Multipliers = Field((1, 2, 3, 4), description="factor on the channels at each resolution, finest first")
    channel_mult_emb: int = Field(4, ge=1, le=16, description="length of the embedding, in base channels")
    num_blocks: int = Field(3, ge=1, le=16, description="residual blocks at each resolution")
    attn_resolutions: Resolutions = Field((32, 16, 8), description="resolutions with self-attention, pixels")
    dropout: float = Field(0.1, ge=0, le=1, description="dropout probability inside the blocks, in training mode")
    step_condition: bool = Field(False, description="whether the blocks take SFD-v's step condition")


class DhariwalUNet(Net):
    """ADM: x [B, Cin, H, W], c_noise [B], condition -> F [B, Cout, H, W], in the dtype of the weights.

    Without classes the labels are ignored, without a step condition the steps are.
    """

    def __init__(self, configuration: DhariwalConfiguration):
        c = configuration
        super().__init__((c.in_channels, c.img_resolution, c.img_resolution), c.label_dim, c.step_condition)
        self.configuration = c
        n, n_embedding = c.model_channels, c.model_channels * c.channel_mult_emb
        # Augmentation labels are zero outside the teacher's own training, so this weight is kept for the checkpoint's sake and never used.
        self.map_augment = nn.Linear(c.augment_dim, n, bias=False) if c.augment_dim else None
        self.map_layer0 = nn.Linear(n, n_embedding)
        self.map_layer1 = nn.Linear(n_embedding, n_embedding)
        self.map_label = nn.Linear(c.label_dim, n_embedding, bias=False) if c.label_dim else None
        self.map_step = StepEmbedding(n, n_embedding, endpoint=False, sine_first=False) if c.step_condition else None
        self.enc, n_skips = self._encoder(c, n_embedding)
        self.dec = self._decoder(c, n_embedding, n_skips)
        number_layers(self, UNetBlock)
        self.out_norm = group_norm(n * c.channel_mult[0], 1e-5)
        self.out_conv = Convolution(n * c.channel_mult[0], c.out_channels, 3)

    @staticmethod
    def _block(c: DhariwalConfiguration, n_in: int, n_out: int, n_embedding: int, attention: bool = False, resample: str = "") -> UNetBlock:
        heads = n_out // CHANNELS_PER_HEAD if attention else 0
        return UNetBlock(n_in, n_out, n_embedding, resample=resample, n_heads=heads, dropout=c.dropout, step=c.step_condition)

    def _encoder(self, c: DhariwalConfiguration, n_embedding: int) -> tuple[nn.ModuleDict, list[int]]:
        """The encoder and the channels of its skip connections, in order."""
        layers, n = nn.ModuleDict(), c.model_channels * c.channel_mult[0]
        n_skips = [n]
        for level, factor in enumerate(c.channel_mult):
            here = scale_name(c.img_resolution, level)
            if level == 0:
                layers[f"{here}_conv"] = Convolution(c.in_channels, n, 3)
            else:
                layers[f"{here}_down"] = self._block(c, n, n, n_embedding, resample="down")
                n_skips.append(n)
            attention = c.img_resolution >> level in c.attn_resolutions
            for index in range(c.num_blocks):
                layers[f"{here}_block{index}"] = self._block(c, n, c.model_channels * factor, n_embedding, attention)
                n = c.model_channels * factor
                n_skips.append(n)
        return layers, n_skips

    def _decoder(self, c: DhariwalConfiguration, n_embedding: int, n_skips: list[int]) -> nn.ModuleDict:
        layers, n, deepest = nn.ModuleDict(), n_skips[-1], len(c.channel_mult) - 1
        for level in range(deepest, -1, -1):
            here = scale_name(c.img_resolution, level)
            if level == deepest:
                layers[f"{here}_in0"] = self._block(c, n, n, n_embedding, attention=True)
                layers[f"{here}_in1"] = self._block(c, n, n, n_embedding)
            else:
                layers[f"{here}_up"] = self._block(c, n, n, n_embedding, resample="up")
            attention = c.img_resolution >> level in c.attn_resolutions
            for index in range(c.num_blocks + 1):
                n_out = c.model_channels * c.channel_mult[level]
                layers[f"{here}_block{index}"] = self._block(c, n + n_skips.pop(), n_out, n_embedding, attention)
                n = n_out
        return layers

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition | None = None) -> Tensor:
        x = laid_out(x.to(self.map_layer0.weight.dtype))
        embedding = self._embed(c_noise, condition)
        steps = condition.steps if condition is not None and self.map_step is not None else None
        step = self.map_step(steps) if steps is not None else None
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, embedding, step) if isinstance(layer, UNetBlock) else layer(x)
            skips.append(x)
        for name, layer in self.dec.items():
            x = layer(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, embedding, step)
        return self.out_conv(norm_silu(self.out_norm, x))

    def _embed(self, c_noise: Tensor, condition: Condition | None) -> Tensor:
        """Noise level and class -> embedding [B, E]; unlike in SongUNet the class enters after the second layer."""
        values = c_noise.float() if c_noise.dtype.itemsize < 4 else c_noise
        code = torch.cat(waves(values, self.configuration.model_channels, endpoint=False), dim=1).to(self.map_layer0.weight.dtype)
        embedding = self.map_layer1(functional.silu(self.map_layer0(code)))
        if self.map_label is not None:
            embedding = embedding + self.map_label(one_hot(condition, self.configuration.label_dim, len(code), code))
        return functional.silu(embedding)
