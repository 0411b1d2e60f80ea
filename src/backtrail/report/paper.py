"""The papers' own numbers, each with the place where it was read. What could not be read stays `unknown`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from backtrail.artifacts import load_yaml
from backtrail.errors import UserError
from backtrail.parameters.base import Section, validate

FILE = Path(__file__).with_name("paper_numbers.yaml")
UNKNOWN = "unknown"


class Source(Section):
    """Where numbers were read."""

    reference: str = Field(description="paper or public code")
    place: str = Field(description="table, figure or file in it")


class Number(Section):
    """One FID of a paper: Inception features, 50,000 samples."""

    method: str = Field(description="method or solver")
    data_set: str = Field(description="key of `data_sets`")
    nfe: int = Field(ge=1, description="network forwards per image")
    fid: float | Literal["unknown"] = Field(description="FID-50k")
    hours: float | None = Field(default=None, gt=0, description="fine-tuning, A100 hours, where the paper says it")
    source: str = Field(description="key of `sources`")
    trained: bool = Field(default=True, description="False where the student was not trained for this NFE")

    @property
    def text(self) -> str:
        """The FID as the papers print it: two decimals, or `unknown`."""
        return self.fid if isinstance(self.fid, str) else f"{self.fid:.2f}"


class PaperNumbers(Section):
    """The file of quoted numbers."""

    sources: dict[str, Source] = Field(description="tag -> source")
    data_sets: dict[str, str] = Field(description="key -> name as the papers write it")
    numbers: list[Number] = Field(description="quoted numbers")

    def find(self, method: str, nfe: int, data_set: str, trained: bool = True) -> Number | None:
        """The quoted number, or None where none is listed; one of a student trained for its NFE never stands beside an untrained one.

        A method called METHOD-nfeN is the student that METHOD has for NFE N alone.
        """
        method = method.removesuffix(f"-nfe{nfe}")
        for number in self.numbers:
            if (number.method, number.nfe, number.data_set, number.trained) == (method, nfe, data_set, trained):
                return number
        return None


def paper_numbers(path: Path = FILE) -> PaperNumbers:
    """Read and check the file: every number has a known source and data set, and none stands twice. Raises UserError otherwise."""
    numbers = validate(PaperNumbers, load_yaml(path.read_text(encoding="utf-8")), "paper_numbers", path)
    seen = set()
    for number in numbers.numbers:
        key = (number.method, number.nfe, number.data_set)
        if number.source not in numbers.sources or number.data_set not in numbers.data_sets or key in seen:
            raise UserError(f"{path}: the entry {key} stands twice, or its source {number.source} or its data set is not listed")
        seen.add(key)
    return numbers
