"""The whole of `params.yaml`: what a suite is."""

from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from backtrail.parameters.base import PARAMS_FILE, Section, read, validate
from backtrail.parameters.classifier import ClassifierParameters
from backtrail.parameters.data import Data
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.report import Report
from backtrail.parameters.runtime import Resources, Runtime
from backtrail.parameters.sampling import TeacherSamples
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.teacher import ImportedTeacher, Teacher, is_imported
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation

T = TypeVar("T", Teacher, ImportedTeacher)


class Suite(Section, Generic[T]):
    """A suite: one data set, one teacher, the methods that are distilled from it, and how they are measured."""

    suite: str = Field(description="Name of the suite.")
    code: str = Field(
        description="Folder of the package, relative to the suite's folder; dvc.yaml lists the code that a stage depends on by it."
    )
    seeds: list[int] = Field(min_length=1, description="Seeds of the students; each method is trained once for each.")
    resources: dict[str, Resources] = Field(description="What stages ask a scheduler for, by the names that dvc.yaml uses (train, light).")
    runtime: Runtime
    data: Data
    classifier: ClassifierParameters
    teacher: T
    teacher_samples: TeacherSamples
    score_distillation: dict[str, ScoreDistillation]
    trajectory_distillation: dict[str, TrajectoryDistillation]
    metrics: Metrics
    report: Report

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be different and not negative")
        return seeds

    @model_validator(mode="after")
    def _sizes(self) -> "Suite":
        if isinstance(self.teacher, Teacher) and self.teacher.net.resolution != self.data.resolution:
            raise ValueError(f"teacher.net.resolution = {self.teacher.net.resolution} must be data.resolution = {self.data.resolution}")
        return self

    @model_validator(mode="after")
    def _curves(self) -> "Suite":
        if "classifier" not in self.metrics.extractors:
            raise ValueError("metrics.extractors must hold classifier: the curves are measured in its features")
        return self

    @model_validator(mode="after")
    def _stages(self) -> Self:
        """Options that the methods have and no stage carries yet are refused rather than ignored."""
        for name, score in self.score_distillation.items():
            if score.start_method is not None:
                raise ValueError(f"score_distillation.{name}.start_method: no stage starts from another method's student; leave it out")
        for name, p in self.trajectory_distillation.items():
            if p.teacher_method is not None or p.guidance != [1.0]:
                raise ValueError(f"trajectory_distillation.{name}: no stage takes teacher_method or guidance; leave them out")
        return self

    @model_validator(mode="after")
    def _names(self) -> "Suite":
        if both := set(self.score_distillation) & set(self.trajectory_distillation):
            raise ValueError(f"a method has one name in one section; {sorted(both)} stand in two")
        for name in (*self.score_distillation, *self.trajectory_distillation):
            if not name.replace("-", "").isalnum() or not name.isascii() or name == "teacher":
                raise ValueError(f"a method's name is letters, digits and '-', and not 'teacher'; found {name!r}")
        return self


def read_suite(path: str | Path = PARAMS_FILE) -> Suite:
    """The checked parameters. Raises UserError that names each key that is not allowed, its value and what is allowed."""
    values = read(path)
    return validate(Suite[ImportedTeacher] if is_imported(values) else Suite[Teacher], values, "", path)
