"""What every suite says of itself, whatever it distils."""

from typing import Annotated

from pydantic import Field

from backtrail.parameters.base import ByName, Distinct, Name, Section
from backtrail.parameters.runtime import Resources, Runtime


class BaseSuite(Section):
    """Name, seeds, and what its stages ask of the machine."""

    suite: Name = Field(description="Name of the suite.")
    seeds: Distinct[Annotated[int, Field(ge=0)]] = Field(
        min_length=1, description="Seeds of the students; each method is trained once for each."
    )
    resources: ByName[Resources] = Field(description="What stages ask a scheduler for, by the names that dvc.yaml uses (train, light).")
    runtime: Runtime
