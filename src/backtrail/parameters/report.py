"""Parameters of the report: which metric its verdicts rest on and what the sample grid shows. Methods and seeds are the suite's own."""

from typing import Annotated

from pydantic import Field, StringConstraints

from backtrail.parameters.base import Section

GridRow = Annotated[str, StringConstraints(pattern=r"^[^/]+/nfe[1-9][0-9]*$")]


class Report(Section):
    """Figures, tables and the HTML page."""

    title: str = Field(min_length=1, description="Heading of the report.")
    metric: str = Field(
        pattern=r"^(fd|kid|fid)_[a-z0-9_]+$", description="Metric of the tables' verdicts and of the figures; lower is better."
    )
    sample_columns: int = Field(10, ge=1, le=32, description="Images per row of the sample grid.")
    sample_solvers: list[GridRow] = Field(description="Rows of the sample grid drawn with the teacher, each solver/nfeN.")
