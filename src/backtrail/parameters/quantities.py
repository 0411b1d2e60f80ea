"""The numbers of `params.yaml` by what they count or measure. Each has both bounds: a number beyond them is a slip, or would only fail
hours later, in an overflow of float32 or for want of memory. A test holds every field against this.
"""

from typing import Annotated

from pydantic import Field

Whole = Annotated[int, Field(ge=0, le=10**9)]  # of updates or images, where none is an answer
Count = Annotated[int, Field(ge=1, le=10**9)]
Batch = Annotated[int, Field(ge=1, le=10**6)]  # what goes through a network at once
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(ge=1e-12, le=1e12)]
Level = Annotated[float, Field(ge=1e-6, le=1e6)]  # a noise level or a length, in units of the data
LearningRate = Annotated[float, Field(ge=1e-12, le=100)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of a running mean; also a probability
Guidance = Annotated[float, Field(ge=0, le=1000)]
