"""Parameters of the machine: what changes rounding, and so belongs to the recipe, and what only a scheduler reads."""

from typing import Literal

from pydantic import Field

from backtrail.parameters.base import Section
from backtrail.parameters.quantities import Batch

MOST_THREADS = 512  # more than any one machine has cores: not the machine's own, for another one checks the parameters than computes


class Runtime(Section):
    """How the arithmetic is done."""

    threads: int = Field(1, ge=1, le=MOST_THREADS, description="CPU threads per stage; two on a busy machine can take ten times as long.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where stages compute; auto is a GPU where there is one.")
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = Field(
        "float32",
        description="What the networks' products are computed in: tf32 is a GPU's shortened float32; bfloat16 and float16 leave weights, "
        "losses, optimiser and everything outside the networks in float32. float16 has no loss scaling, as in the papers' own codes. "
        "Metrics are always float32.",
    )
    micro_batch: Batch | None = Field(
        None,
        description="Images per pass of a network in training at the most: gradients of several passes add up; null: all at once.",
    )
    checkpointing: bool = Field(
        False, description="Blocks of the networks are computed again in the backward pass and not kept: less memory, a third more time."
    )
    compile: bool = Field(False, description="Networks go through torch.compile: minutes at the start, faster on a GPU, no gain on a CPU.")
    channels_last: bool = Field(False, description="Convolutions' weights with the channels last in memory: faster in bfloat16 on a GPU.")


class Resources(Section):
    """What a stage asks a scheduler for; no result depends on it."""

    gpus: int = Field(0, ge=0, le=64, description="GPUs, count.")
    threads: int = Field(1, ge=1, le=MOST_THREADS, description="CPU cores, count.")
    mem_mb: int = Field(ge=1, le=10**8, description="Memory, MB.")
    runtime: int = Field(ge=1, le=10**6, description="Longest run time, minutes.")
