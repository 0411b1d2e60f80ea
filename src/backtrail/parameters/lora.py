"""Parameters of low-rank adapters."""

from typing import Annotated

from pydantic import Field

from backtrail.parameters.base import Distinct, Section
from backtrail.parameters.quantities import Positive

Layer = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.]+$")]


class Lora(Section):
    """Low-rank adapters (arXiv 2106.09685) on a frozen network: W + alpha / rank B A, with B zero at first."""

    rank: int = Field(ge=1, le=4096, description="Rank of each adapter.")
    alpha: Positive = Field(description="The adapters' part is scaled by alpha / rank.")
    targets: Distinct[Layer] | None = Field(
        None,
        min_length=1,
        description="Ends of the names of the layers that are adapted (to_q, to_out.0, conv1); null: all linear layers and convolutions.",
    )
