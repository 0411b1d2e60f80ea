"""Parameters of the study of a teacher's size and budget."""

from typing import Annotated

from pydantic import Field

from backtrail.parameters.base import ByName, Distinct, Section
from backtrail.parameters.quantities import Count

Channels = Annotated[list[Annotated[int, Field(ge=8, le=8192, multiple_of=8)]], Field(min_length=1, max_length=8)]


class Scaling(Section):
    """Every size of the built-in U-Net trained for every budget, all else as the section `teacher` says."""

    channels: ByName[Channels] = Field(min_length=1, description="Channels per level of the U-Net, by the name of the size.")
    steps: Distinct[Count] = Field(min_length=1, description="Optimiser updates; each budget has the whole cosine of the learning rate.")
    n_samples: Count = Field(ge=2, description="Images of the reference sampler that each teacher is measured by, and of real ones.")
