"""EDM's denoisers (arXiv 2206.00364) as a configuration: the preconditionings and networks of the published checkpoints."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from backtrail.denoiser import EDMDenoiser, NetDenoiser
from backtrail.nets.dhariwal import DhariwalConfiguration, DhariwalUNet
from backtrail.nets.preconditioning import IDDPMDenoiser, VEDenoiser, VPDenoiser
from backtrail.nets.songunet import SongUNet, SongUNetConfiguration
from backtrail.parameters.base import Section


class EDM(Section):
    """EDM's own preconditioning."""

    kind: Literal["edm"] = "edm"
    sigma_data: float = Field(0.5, gt=0, description="standard deviation of the data, in units of the images' range [-1, 1]")

    def denoiser(self, net: nn.Module) -> NetDenoiser:
        return EDMDenoiser(net, self.sigma_data)


class VP(Section):
    """Variance-preserving preconditioning."""

    kind: Literal["vp"] = "vp"
    beta_d: float = Field(19.9, gt=0, description="extent of the noise schedule")
    beta_min: float = Field(0.1, gt=0, description="its slope at the start")
    M: int = Field(1000, ge=2, le=100_000, description="number of time steps")

    def denoiser(self, net: nn.Module) -> NetDenoiser:
        return VPDenoiser(net, self.beta_d, self.beta_min, self.M)


class VE(Section):
    """Variance-exploding preconditioning."""

    kind: Literal["ve"] = "ve"
    sigma_min: float = Field(0.02, ge=0, description="smallest noise level, in units of the data")
    sigma_max: float = Field(100.0, gt=0, description="largest noise level, in units of the data")

    def denoiser(self, net: nn.Module) -> NetDenoiser:
        return VEDenoiser(net, self.sigma_min, self.sigma_max)


class IDDPM(Section):
    """Improved DDPM's preconditioning."""

    kind: Literal["iddpm"] = "iddpm"
    C_1: float = Field(0.001, gt=0, le=1, description="smallest ratio of neighbouring signal levels")
    C_2: float = Field(0.008, ge=0, description="offset of the cosine schedule")
    M: int = Field(1000, ge=2, le=100_000, description="number of time steps")

    def denoiser(self, net: nn.Module) -> NetDenoiser:
        return IDDPMDenoiser(net, self.C_1, self.C_2, self.M)


class EDMTeacher(Section):
    """All that is needed, beside the weights, to build an imported teacher again."""

    format: Literal["edm"] = "edm"
    preconditioning: Annotated[EDM | VP | VE | IDDPM, Field(discriminator="kind")]
    net: Annotated[SongUNetConfiguration | DhariwalConfiguration, Field(discriminator="kind")]
    label_dropout: float = Field(0.0, ge=0, le=1, description="share of labels that its training replaced by none")


def build(configuration: EDMTeacher) -> NetDenoiser:
    """A denoiser D(x, sigma, condition) with new weights; under `torch.device("meta")` without any."""
    net = configuration.net
    return around(SongUNet(net) if isinstance(net, SongUNetConfiguration) else DhariwalUNet(net), configuration)


def around(net: nn.Module, configuration: EDMTeacher) -> NetDenoiser:
    """The denoiser whose network is there already."""
    made = configuration.preconditioning.denoiser(net)
    made.knows_absence = configuration.label_dropout > 0
    return made
