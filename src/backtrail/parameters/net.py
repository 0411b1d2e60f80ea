"""Parameters of the networks."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from backtrail.parameters.base import Distinct, Section


class UNetParameters(Section):
    """The built-in U-Net (`nets/unet.py`)."""

    kind: Literal["unet"] = "unet"
    image_channels: int = Field(1, ge=1, le=64, description="Channels of an image: 1 grey, 3 colour.")
    resolution: int = Field(16, ge=4, le=1024, description="Height and width of an image, pixels.")
    stem: int = Field(2, ge=1, le=64, description="Pixels per side that the pixel-unshuffle stem folds into channels; 1 is no folding.")
    channels: list[Annotated[int, Field(ge=8, le=8192, multiple_of=8)]] = Field(
        [32, 64],
        min_length=1,
        max_length=8,
        description="Channels per level, each half the resolution of the one before; multiples of 8 (group normalisation).",
    )
    blocks: int = Field(1, ge=1, le=100, description="Residual blocks per level, on the way down and again on the way up.")
    attention_levels: Distinct[Annotated[int, Field(ge=0, le=7)]] = Field([1], description="Levels with self-attention, counted from 0.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout probability in each block.")
    n_classes: int = Field(0, ge=0, le=10**6, description="Classes that the net is conditioned on; 0 is unconditional.")
    step_condition: bool = Field(False, description="Blocks take the number of time stamps (SFD-v); set by the method, not by hand.")

    @model_validator(mode="after")
    def _check(self) -> "UNetParameters":
        if bad := [level for level in self.attention_levels if level >= len(self.channels)]:
            raise ValueError(f"attention_levels {bad} must lie in 0..{len(self.channels) - 1}")
        if self.resolution % (unit := self.stem * 2 ** (len(self.channels) - 1)):
            raise ValueError(f"resolution = {self.resolution} must be a multiple of {unit} (stem x 2 per level below the first)")
        return self


class MLPParameters(Section):
    """The net for points (`nets/mlp.py`): a point of d numbers is an image of shape [d, 1, 1]."""

    kind: Literal["mlp"] = "mlp"
    image_channels: int = Field(2, ge=1, le=10**6, description="Numbers per point.")
    width: int = Field(128, ge=8, le=65536, multiple_of=2, description="Units per hidden layer.")
    layers: int = Field(3, ge=1, le=100, description="Hidden layers.")
    n_classes: int = Field(0, ge=0, le=10**6, description="Classes that the net is conditioned on; 0 is unconditional.")
    step_condition: bool = Field(False, description="Layers take the number of time stamps (SFD-v); set by the method, not by hand.")

    @property
    def resolution(self) -> int:
        """A point is an image of one pixel."""
        return 1


def _kind(value: Any) -> str:
    """A net without a `kind` is the U-Net."""
    return value.get("kind", "unet") if isinstance(value, dict) else value.kind


NetParameters = Annotated[Annotated[UNetParameters, Tag("unet")] | Annotated[MLPParameters, Tag("mlp")], Discriminator(_kind)]
