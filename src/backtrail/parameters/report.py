"""Parameters of the report: which metric its verdicts rest on, what the sample grid shows, and the axes of its ablations.

Methods and seeds are the suite's own.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, model_validator

from backtrail.parameters.base import ByName, Distinct, Line, Name, Section

GridRow = Annotated[str, StringConstraints(pattern=r"^[^/]+/nfe[1-9][0-9]{0,5}$")]
AxisValue = Annotated[int, Field(ge=-(10**12), le=10**12)] | Annotated[float, Field(ge=-1e12, le=1e12)] | Line


class _Entries(Section):
    """What both kinds of axis say of themselves."""

    label: Line = Field(description="What is varied, as the figure's axis or legend names it, with its unit.")
    shows: Line = Field(description="What the figure is about, for its caption.")
    baseline: Name = Field(description="The entry that the others are compared with.")


def _comparable(entries: dict[str, AxisValue], info: ValidationInfo) -> dict[str, AxisValue]:
    if len(set(entries.values())) < max(2, len(entries)):
        raise ValueError(f"an axis needs two or more entries of different values; found {list(entries.values())}")
    if (baseline := info.data.get("baseline")) is not None and baseline not in entries:
        raise ValueError(f"the baseline {baseline} is none of the axis's entries")
    return entries


Entries = Annotated[ByName[AxisValue], AfterValidator(_comparable)]


class Axis(_Entries):
    """One thing varied over several methods, compared by the end of their training curves."""

    methods: Entries = Field(description="Method -> its value on the axis, a number or a word.")


class SamplerAxis(_Entries):
    """One thing varied over several samplers of the teacher, compared at each of their numbers of evaluations."""

    samplers: Entries = Field(description="Name in teacher_samples.samplers -> its value on the axis, a number or a word.")


class Comparison(Section):
    """A claim of the suite's own, judged together with the papers': one method's finished student is better than another's."""

    text: Line = Field(description="What is claimed, as the table says it.")
    ours: Name = Field(description="The method that it is claimed of.")
    other: Name = Field(description="The method that it is held against, at every number of evaluations that both are trained for.")


class Report(Section):
    """Figures, tables and the HTML page."""

    title: Line = Field(description="Heading of the report.")
    metric: str = Field(
        pattern=r"^(fd|kid|fid)_[a-z0-9_]+$", description="Metric of the tables' verdicts and of the figures; lower is better."
    )
    sample_columns: int = Field(10, ge=1, le=32, description="Images per row of the sample grid.")
    sample_solvers: Distinct[GridRow] = Field(description="Rows of the sample grid drawn with the teacher, each solver/nfeN.")
    axes: ByName[Axis] = Field({}, description="Ablations over methods, one figure each, by the name of its files.")
    sampler_axes: ByName[SamplerAxis] = Field({}, description="Ablations over the teacher's samplers, likewise.")
    comparisons: ByName[Comparison] = Field({}, description="Claims of the suite's own, in the metric of the tables, by short names.")

    @model_validator(mode="after")
    def _one_name(self) -> "Report":
        if both := self.axes.keys() & self.sampler_axes.keys():
            raise ValueError(f"an axis has one name: {', '.join(sorted(both))} stand in axes and in sampler_axes")
        return self

    def check_axes(self, methods: Iterable[str], samplers: Iterable[str]) -> None:
        """Raises ValueError that names a method or sampler of an axis or a comparison which the suite does not have."""
        named = [(f"axes.{name}", "method", axis.methods, sorted(methods)) for name, axis in self.axes.items()]
        named += [(f"sampler_axes.{name}", "sampler", axis.samplers, sorted(samplers)) for name, axis in self.sampler_axes.items()]
        named += [(f"comparisons.{name}", "method", (of.ours, of.other), sorted(methods)) for name, of in self.comparisons.items()]
        for key, kind, entries, known in named:
            if unknown := [entry for entry in entries if entry not in known]:
                raise ValueError(f"report.{key} names {', '.join(unknown)}, and the suite has no such {kind}; known: {', '.join(known)}")

    def check_measured(self, rows: Sequence[str], distances: Sequence[str]) -> None:
        """Raises ValueError that names a row of the grid that is not among `rows`, or a metric not among `distances`."""
        if unknown := [row for row in self.sample_solvers if row not in rows]:
            raise ValueError(f"report.sample_solvers names {', '.join(unknown)}; the samplers of teacher_samples make {', '.join(rows)}")
        if self.metric not in distances:
            raise ValueError(f"report.metric = {self.metric} is none of what the section metrics measures: {', '.join(distances)}")
