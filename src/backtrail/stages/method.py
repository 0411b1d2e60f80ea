"""Where a method stands in params.yaml: its family, its parameters, and the method whose student it starts from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from backtrail.errors import UserError
from backtrail.parameters.base import Section, read, section
from backtrail.parameters.score_distillation import ScoreDistillation

# The families of dvc.yaml's stages, and the sections that their methods stand in.
KEYS = {
    "score": "score_distillation",
    "started-score": "started_score_distillation.methods",
    "trajectory": "trajectory_distillation",
    "second-stage": "second_stage.methods",
}
STARTS = {"started-score": "started_score_distillation.start_method", "second-stage": "second_stage.teacher_method"}

SCORE = {"score": ScoreDistillation, "started-score": ScoreDistillation}

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Method(Generic[S]):
    """A method of the suite; its stages are called FAMILY-..., its files lie in folders of its name.

    start: the method whose student, of the same seed, it starts from; None where it starts from the teacher.
    """

    name: str
    family: str
    parameters: S
    start: str | None

    def student(self, seed: int) -> str:
        """The file of the student that this one starts from. Only for families that start from a student."""
        return f"results/students/{self.start}/seed{seed}/student.safetensors"

    def stage(self, name: str, seed: int) -> str:
        """What dvc.yaml calls a stage that several families have."""
        return f"{'started-' if self.family == 'started-score' else ''}{name}@{self.name}-{seed}"

    def stage_parameters(self, seed: int) -> dict[str, Any]:
        """What a stage of this method depends on, for its record and its recipe."""
        start = {STARTS[self.family].split(".")[-1]: self.start} if self.start else {}
        return {"method": self.parameters, "seed": seed, **start}


def find_method(name: str, models: Mapping[str, type[S]]) -> Method[S]:
    """The method `name` in one of the families of `models`. Raises UserError if it stands in none, or its parameters are not allowed."""
    values = read()
    for family, model in models.items():
        if name in (_lookup(values, KEYS[family]) or {}):
            start = _lookup(values, STARTS[family]) if family in STARTS else None
            return Method(name, family, section(model, f"{KEYS[family]}.{name}"), start)
    known = [method for family in models for method in _lookup(values, KEYS[family]) or {}]
    raise UserError(f"params.yaml has no method {name!r} here; known: {', '.join(known) or 'none'}")


def _lookup(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
