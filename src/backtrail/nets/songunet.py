"""SongUNet: the DDPM++ and NCSN++ networks of arXiv 2011.13456 in the form of arXiv 2206.00364 (Table 7, columns VP and VE)."""

import math
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from backtrail.denoiser import Condition
from backtrail.nets.blocks import Net, laid_out, number_layers
from backtrail.nets.convolution import Convolution
from backtrail.nets.edm_layers import FourierFrequencies, ResampleConv2d, UNetBlock, group_norm, one_hot, scale_name, waves
from backtrail.nets.step_condition import StepEmbedding
from backtrail.parameters.base import Section

Tap = Annotated[int | float, Field(ge=-1000, le=1000)]
Taps = Annotated[tuple[Tap, ...], Field(min_length=2, max_length=16, strict=False), AfterValidator(lambda taps: _no_zero_sum(taps))]
Multipliers = Annotated[tuple[Annotated[int, Field(ge=1, le=32)], ...], Field(min_length=1, max_length=8, strict=False)]
Resolutions = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=8, strict=False)]


def _no_zero_sum(taps: tuple[int | float, ...]) -> tuple[int | float, ...]:
    if sum(taps) == 0:
        raise ValueError("the taps' sum, by which the filter is divided, should not be 0")
    return taps


class SongUNetConfiguration(Section):
    """The architecture; the defaults are those with which the released DDPM++ networks were built. Field names are the checkpoints'."""

    kind: Literal["songunet"] = "songunet"
    img_resolution: int = Field(ge=4, le=1024, description="height and width of an image, pixels")
    in_channels: int = Field(ge=1, le=64, description="channels of the input")
    out_channels: int = Field(ge=1, le=64, description="channels of the output")
    label_dim: int = Field(0, ge=0, le=100_000, description="number of classes; 0: unconditional")
    augment_dim: int = Field(0, ge=0, le=64, description="length of the augmentation label, fed with zeros here; 0: none")
    model_channels: int = Field(128, ge=4, le=1024, multiple_of=4, description="base number of channels")
    channel_mult: Multipliers = Field((1, 2, 2, 2), description="factor on the channels at each resolution, finest first")
    channel_mult_emb: int = Field(4, ge=1, le=16, description="length of the embedding, in base channels")
    num_blocks: int = Field(4, ge=1, le=16, description="residual blocks at each resolution")
    attn_resolutions: Resolutions = Field((16,), description="resolutions with self-attention, pixels")
    dropout: float = Field(0.1, ge=0, le=1, description="dropout probability inside the blocks, in training mode")
    embedding_type: Literal["positional", "fourier"] = Field("positional", description="code of the noise level: DDPM++, NCSN++")
    channel_mult_noise: int = Field(1, ge=1, le=16, description="length of that code, in base channels: 1 DDPM++, 2 NCSN++")
    encoder_type: Literal["standard", "skip", "residual"] = Field("standard", description="residual: NCSN++")
    decoder_type: Literal["standard", "skip"] = Field("standard", description="skip: images summed over the resolutions")
    resample_filter: Taps = Field((1, 1), description="taps of the resampling filter: 1, 1 DDPM++; 1, 3, 3, 1 NCSN++")
    step_condition: bool = Field(False, description="whether the blocks take SFD-v's step condition")


class SongUNet(Net):
    """DDPM++ or NCSN++: x [B, Cin, H, W], c_noise [B], condition -> F [B, Cout, H, W], in the dtype of the weights.

    Without classes the labels are ignored, without a step condition the steps are.
    """

    def __init__(self, configuration: SongUNetConfiguration):
        c = configuration
        super().__init__((c.in_channels, c.img_resolution, c.img_resolution), c.label_dim, c.step_condition)
        self.configuration = c
        n_embedding, n_noise = c.model_channels * c.channel_mult_emb, c.model_channels * c.channel_mult_noise
        self.n_noise = n_noise
        self.map_noise = FourierFrequencies(n_noise) if c.embedding_type == "fourier" else None
        self.map_label = nn.Linear(c.label_dim, n_noise) if c.label_dim else None
        # Augmentation labels are zero outside the teacher's own training, so this weight is kept for the checkpoint's sake and never used.
        self.map_augment = nn.Linear(c.augment_dim, n_noise, bias=False) if c.augment_dim else None
        self.map_layer0 = nn.Linear(n_noise, n_embedding)
        self.map_layer1 = nn.Linear(n_embedding, n_embedding)
        fourier = c.embedding_type == "fourier"
        self.map_step = StepEmbedding(n_noise, n_embedding, endpoint=True, sine_first=True, fourier=fourier) if c.step_condition else None
        self.enc, n_skips = self._encoder(c, n_embedding)
        self.dec = self._decoder(c, n_embedding, n_skips)
        number_layers(self, UNetBlock)

    @staticmethod
    def _block(c: SongUNetConfiguration, n_in: int, n_out: int, n_embedding: int, attention: bool = False, resample: str = "") -> UNetBlock:
        shared = {"taps": c.resample_filter, "dropout": c.dropout, "skip_scale": math.sqrt(0.5), "eps": 1e-6}
        heads = int(attention)  # one head over all channels
        return UNetBlock(
            n_in, n_out, n_embedding, resample=resample, n_heads=heads, adaptive=False, project=True, step=c.step_condition, **shared
        )

    def _encoder(self, c: SongUNetConfiguration, n_embedding: int) -> tuple[nn.ModuleDict, list[int]]:
        """The encoder and the channels of its skip connections, in order."""
        layers, n = nn.ModuleDict(), c.model_channels
        n_skips, n_auxiliary = [n], c.in_channels
        for level, factor in enumerate(c.channel_mult):
            here = scale_name(c.img_resolution, level)
            if level == 0:
                layers[f"{here}_conv"] = Convolution(c.in_channels, n, 3)
            else:
                layers[f"{here}_down"] = self._block(c, n, n, n_embedding, resample="down")
                n_skips.append(n)
                if c.encoder_type == "skip":
                    layers[f"{here}_aux_down"] = ResampleConv2d(n_auxiliary, n_auxiliary, 0, False, c.resample_filter)
                    layers[f"{here}_aux_skip"] = Convolution(n_auxiliary, n, 1)
                if c.encoder_type == "residual":
                    layers[f"{here}_aux_residual"] = ResampleConv2d(n_auxiliary, n, 3, False, c.resample_filter, fused=True)
                    n_auxiliary = n
            attention = c.img_resolution >> level in c.attn_resolutions
            for index in range(c.num_blocks):
                layers[f"{here}_block{index}"] = self._block(c, n, c.model_channels * factor, n_embedding, attention)
                n = c.model_channels * factor
                n_skips.append(n)
        return layers, n_skips

    def _decoder(self, c: SongUNetConfiguration, n_embedding: int, n_skips: list[int]) -> nn.ModuleDict:
        layers, n, deepest = nn.ModuleDict(), n_skips[-1], len(c.channel_mult) - 1
        for level in range(deepest, -1, -1):
            here = scale_name(c.img_resolution, level)
            if level == deepest:
                layers[f"{here}_in0"] = self._block(c, n, n, n_embedding, attention=True)
                layers[f"{here}_in1"] = self._block(c, n, n, n_embedding)
            else:
                layers[f"{here}_up"] = self._block(c, n, n, n_embedding, resample="up")
            for index in range(c.num_blocks + 1):
                # Only the last block of a resolution attends.
                attention = index == c.num_blocks and c.img_resolution >> level in c.attn_resolutions
                n_out = c.model_channels * c.channel_mult[level]
                layers[f"{here}_block{index}"] = self._block(c, n + n_skips.pop(), n_out, n_embedding, attention)
                n = n_out
            if c.decoder_type == "skip" and level < deepest:
                layers[f"{here}_aux_up"] = ResampleConv2d(c.out_channels, c.out_channels, 0, True, c.resample_filter)
            if c.decoder_type == "skip" or level == 0:
                layers[f"{here}_aux_norm"] = group_norm(n, 1e-6)
                layers[f"{here}_aux_conv"] = Convolution(n, c.out_channels, 3)
        return layers

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition | None = None) -> Tensor:
        x = laid_out(x.to(self.map_layer0.weight.dtype))
        embedding = self._embed(c_noise, condition)
        steps = condition.steps if condition is not None and self.map_step is not None else None
        step = self.map_step(steps) if steps is not None else None
        x, skips = self._encode(x, embedding, step)
        return self._decode(x, skips, embedding, step)

    def _embed(self, c_noise: Tensor, condition: Condition | None) -> Tensor:
        """Noise level and class -> embedding [B, E]."""
        values = c_noise.float() if c_noise.dtype.itemsize < 4 else c_noise
        cosine, sine = self.map_noise(values) if self.map_noise is not None else waves(values, self.n_noise, endpoint=True)
        code = torch.cat([sine, cosine], dim=1).to(self.map_layer0.weight.dtype)
        if self.map_label is not None:
            n_classes = self.configuration.label_dim
            code = code + self.map_label(one_hot(condition, n_classes, len(code), code) * math.sqrt(n_classes))
        return functional.silu(self.map_layer1(functional.silu(self.map_layer0(code))))

    def _encode(self, x: Tensor, embedding: Tensor, step: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        c, auxiliary = self.configuration, x
        skips: list[Tensor] = []
        for level in range(len(c.channel_mult)):
            here = scale_name(c.img_resolution, level)
            x = self.enc[f"{here}_conv"](x) if level == 0 else self.enc[f"{here}_down"](x, embedding, step)
            if level and c.encoder_type == "skip":
                auxiliary = self.enc[f"{here}_aux_down"](auxiliary)
                x = x + self.enc[f"{here}_aux_skip"](auxiliary)
            if level and c.encoder_type == "residual":
                x = auxiliary = (x + self.enc[f"{here}_aux_residual"](auxiliary)) / math.sqrt(2)
            skips.append(x)
            for index in range(c.num_blocks):
                x = self.enc[f"{here}_block{index}"](x, embedding, step)
                skips.append(x)
        return x, skips

    def _decode(self, x: Tensor, skips: list[Tensor], embedding: Tensor, step: Tensor | None) -> Tensor:
        c, image = self.configuration, None
        deepest = len(c.channel_mult) - 1
        for level in range(deepest, -1, -1):
            here = scale_name(c.img_resolution, level)
            for name in ("in0", "in1") if level == deepest else ("up",):
                x = self.dec[f"{here}_{name}"](x, embedding, step)
            for index in range(c.num_blocks + 1):
                x = self.dec[f"{here}_block{index}"](torch.cat([x, skips.pop()], dim=1), embedding, step)
            if c.decoder_type == "skip" or level == 0:
                part = self.dec[f"{here}_aux_conv"](functional.silu(self.dec[f"{here}_aux_norm"](x)))
                image = part if image is None else part + self.dec[f"{here}_aux_up"](image)
        return image
