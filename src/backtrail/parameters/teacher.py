"""Parameters of the teacher that is trained here."""

from pydantic import Field

from backtrail.parameters.base import Section
from backtrail.parameters.net import NetParameters, UNetParameters
from backtrail.parameters.training import Adam, Average, LogNormal


class Teacher(Section):
    """Denoising score matching with EDM preconditioning (arXiv 2206.00364, Table 1)."""

    net: NetParameters = UNetParameters()
    steps: int = Field(ge=1, description="Optimiser updates.")
    batch: int = Field(ge=1, description="Images per update.")
    optimiser: Adam
    noise: LogNormal = LogNormal()
    average: Average
    label_dropout: float = Field(0.0, ge=0, lt=1, description="Share of labels replaced by the null label (classifier-free guidance).")
    seed: int = Field(0, ge=0, description="Seed of weights, batches and noise.")
