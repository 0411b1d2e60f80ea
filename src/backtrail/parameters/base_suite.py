"""What every suite says of itself, whatever it distils."""

from abc import abstractmethod
from typing import Self

from pydantic import Field, model_validator

from backtrail.parameters.base import ByName, Distinct, Name, Section
from backtrail.parameters.quantities import Seed
from backtrail.parameters.runtime import Resources, Runtime

MOST_STUDENTS = 2000
ASKED = ("train", "light")  # by stages, for resources


class BaseSuite(Section):
    """Name, seeds, and what its stages ask of the machine."""

    suite: Name = Field(description="Name of the suite.")
    seeds: Distinct[Seed] = Field(min_length=1, description="Seeds of the students; each method is trained once for each.")
    resources: ByName[Resources] = Field(description="What stages ask a scheduler for, by the names that dvc.yaml uses (train, light).")
    runtime: Runtime

    @property
    @abstractmethod
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the parameters."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        """Engines read and write all stages for each of them: they would stand still over more."""
        if (n := len(self.methods) * len(self.seeds)) > MOST_STUDENTS:
            raise ValueError(f"{len(self.methods)} methods with {len(self.seeds)} seeds are {n:,} students: {MOST_STUDENTS:,} are the most")
        if missing := [name for name in ASKED if name not in self.resources]:
            raise ValueError(f"resources.{missing[0]} is missing: stages ask for it by that name")
        return self
