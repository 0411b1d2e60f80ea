"""What every suite says of itself, whatever it distils."""

from pydantic import Field, field_validator

from backtrail.parameters.base import Section
from backtrail.parameters.runtime import Resources, Runtime


class BaseSuite(Section):
    """Name, seeds, and what its stages ask of the machine."""

    suite: str = Field(description="Name of the suite.")
    seeds: list[int] = Field(min_length=1, description="Seeds of the students; each method is trained once for each.")
    resources: dict[str, Resources] = Field(description="What stages ask a scheduler for, by the names that dvc.yaml uses (train, light).")
    runtime: Runtime

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be different and not negative")
        return seeds
