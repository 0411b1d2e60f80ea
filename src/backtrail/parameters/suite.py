"""The whole of `params.yaml`: what a suite is."""

import re
from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import model_validator

from backtrail.parameters.base import PARAMS_FILE, read, validate
from backtrail.parameters.base_suite import BaseSuite
from backtrail.parameters.classifier import ClassifierParameters
from backtrail.parameters.data import Data
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.report import Report
from backtrail.parameters.ring import RingSuite, is_ring
from backtrail.parameters.sampling import TeacherSamples
from backtrail.parameters.score_distillation import ScoreDistillation, StartedScoreDistillation
from backtrail.parameters.teacher import ImportedTeacher, Teacher, is_imported
from backtrail.parameters.trajectory_distillation import SecondStage, TrajectoryDistillation

T = TypeVar("T", Teacher, ImportedTeacher)


class Suite(BaseSuite, Generic[T]):
    """A suite: one data set, one teacher, the methods that are distilled from it, and how they are measured."""

    data: Data
    classifier: ClassifierParameters
    teacher: T
    teacher_samples: TeacherSamples
    score_distillation: dict[str, ScoreDistillation]
    trajectory_distillation: dict[str, TrajectoryDistillation]
    second_stage: SecondStage = SecondStage()
    started_score_distillation: StartedScoreDistillation = StartedScoreDistillation()
    metrics: Metrics
    report: Report

    @property
    def methods(self) -> list[str]:
        """Names of the methods, those of one-step students first."""
        one_step = [*self.score_distillation, *self.started_score_distillation.methods]
        return [*one_step, *self.trajectory_distillation, *self.second_stage.methods]

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
    def _second_stage(self) -> Self:
        """The time stamps of a second stage's teacher are those that it was trained on."""
        stage = self.second_stage
        if stage.methods and stage.teacher_method not in self.trajectory_distillation:
            raise ValueError(f"second_stage.teacher_method = {stage.teacher_method!r} must be a method of trajectory_distillation")
        for name, p in stage.methods.items():
            first = self.trajectory_distillation[str(stage.teacher_method)]
            taught = [p.substeps * (n - 1) + 1 for n in p.num_steps]
            if (p.schedule, p.teacher_afs) != (first.schedule, first.afs) or not set(taught) <= set(first.num_steps):
                raise ValueError(
                    f"second_stage.{name}: its teacher {stage.teacher_method} was trained with {first.num_steps} steps, {first.schedule} "
                    f"and afs = {first.afs}; this asks it for {taught} (substeps x (num_steps - 1) + 1), {p.schedule} and {p.teacher_afs}"
                )
        return self

    @model_validator(mode="after")
    def _starts(self) -> Self:
        """A one-step student starts from one that makes one evaluation."""
        started = self.started_score_distillation
        if not started.methods:
            return self
        if (start := self.second_stage.methods.get(str(started.start_method))) is None:
            raise ValueError(f"started_score_distillation.start_method = {started.start_method!r} must be a method of second_stage")
        if not (start.afs and start.num_steps == [3]):
            raise ValueError(
                f"started_score_distillation.start_method = {started.start_method!r} must make one evaluation: num_steps [3], afs"
            )
        return self

    @model_validator(mode="after")
    def _axes(self) -> Self:
        self.report.check_axes(self.methods, self.teacher_samples.samplers)
        return self

    @model_validator(mode="after")
    def _guidance(self) -> Self:
        """Guidance needs a teacher that knows classes and their absence."""
        asked = [name for name, s in self.teacher_samples.samplers.items() if s.guidance != 1]
        trajectory = {**self.trajectory_distillation, **self.second_stage.methods}
        asked += [name for name, p in trajectory.items() if p.guidance != [1.0]]
        if asked and isinstance(self.teacher, Teacher) and not (self.teacher.net.n_classes and self.teacher.label_dropout):
            raise ValueError(
                f"guidance of {', '.join(asked)} needs a conditional teacher: set teacher.net.n_classes and teacher.label_dropout"
            )
        return self

    @model_validator(mode="after")
    def _local(self) -> Self:
        """Parameters stand in dvc.lock, in the records and on the report's page: a path that tells whose machine it was is refused."""
        inception = self.metrics.inception
        named = {
            "data.local": self.data.local,
            "teacher.local": self.teacher.local if isinstance(self.teacher, ImportedTeacher) else None,
            "metrics.inception.local": inception.local if inception else None,
        }
        for key, path in named.items():
            if path is not None and re.match(r"[/~\\]|[A-Za-z]:[\\/]|[a-z]+://", path):
                raise ValueError(
                    f"{key} should be a path relative to the suite's folder: an absolute one would stand in dvc.lock and in reports/; "
                    f"make a link to the files there (`ln -s FOLDER originals`) and write `{key.rpartition('.')[2]}: originals`"
                )
        return self

    @model_validator(mode="after")
    def _names(self) -> "Suite":
        names = [*self.score_distillation, *self.started_score_distillation.methods]
        names += [*self.trajectory_distillation, *self.second_stage.methods]
        if both := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"a method has one name in one section; {sorted(both)} stand in two")
        for name in names:
            if not name.replace("-", "").isalnum() or not name.isascii() or name == "teacher":
                raise ValueError(f"a method's name is letters, digits and '-', and not 'teacher'; found {name!r}")
        return self


def read_suite(path: str | Path = PARAMS_FILE) -> Suite | RingSuite:
    """The checked parameters. Raises UserError that names each key that is not allowed, its value and what is allowed."""
    values = read(path)
    if is_ring(values):
        return validate(RingSuite, values, "", path)
    return validate(Suite[ImportedTeacher] if is_imported(values) else Suite[Teacher], values, "", path)
