"""Parameters of the machine: what changes rounding, and so belongs to the recipe, and what only a scheduler reads."""

from pydantic import Field

from backtrail.parameters.base import Section


class Runtime(Section):
    """How the arithmetic is done."""

    threads: int = Field(1, ge=1, description="CPU threads per stage; two on a busy machine can be ten times slower than one.")


class Resources(Section):
    """What a stage asks a scheduler for; no result depends on it."""

    gpus: int = Field(0, ge=0, description="GPUs, count.")
    threads: int = Field(1, ge=1, description="CPU cores, count.")
    mem_mb: int = Field(ge=1, description="Memory, MB.")
    runtime: int = Field(ge=1, description="Longest run time, minutes.")
