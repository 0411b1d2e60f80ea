"""The whole of `params.yaml`: what a suite is."""

from pathlib import Path
from typing import Generic, Literal, Self, TypeVar

from pydantic import Field, model_validator

from backtrail.layout import PARAMS_FILE
from backtrail.parameters.base import ByName, Distinct, Name, read, validate
from backtrail.parameters.base_suite import BaseSuite
from backtrail.parameters.classifier import ClassifierParameters, ImportedClassifier, is_imported_classifier
from backtrail.parameters.data import Data
from backtrail.parameters.latent_suite import LatentSuite, is_latent
from backtrail.parameters.metrics import Metrics, Mismatch
from backtrail.parameters.net import UNetParameters
from backtrail.parameters.report import Report
from backtrail.parameters.ring import RingSuite, is_ring
from backtrail.parameters.sampling import TeacherSamples
from backtrail.parameters.scaling import Scaling
from backtrail.parameters.score_distillation import PathParameters, ScoreDistillation
from backtrail.parameters.students import Sampling, guided
from backtrail.parameters.teacher import ImportedTeacher, TrainedTeacher, is_imported
from backtrail.parameters.text_suite import TextSuite, is_text, text_suite
from backtrail.parameters.trajectory_distillation import SecondStage, TrajectoryDistillation

T = TypeVar("T", TrainedTeacher, ImportedTeacher)
C = TypeVar("C", ClassifierParameters, ImportedClassifier)
TEACHER = "teacher"  # the start that is no student
OF_SCALING = {"scaling", "figure-scaling"}  # reserved as `base.RESERVED` is, which is a part of every training's code


class Suite(BaseSuite, Generic[T, C]):
    """A suite: one data set, one teacher, the methods that are distilled from it, and how they are sampled and measured."""

    data: Data
    classifier: C
    teacher: T
    teacher_samples: TeacherSamples
    start: dict[Literal["teacher"] | Name, Distinct[Name]] = Field(
        max_length=1000,
        description="What one-step students start from -> their methods: `teacher`, or a method whose student, of the same seed, it is.",
    )
    score_distillation: ByName[ScoreDistillation]
    trajectory_distillation: ByName[TrajectoryDistillation]
    second_stage: SecondStage | None = None
    students: ByName[Sampling]
    metrics: Metrics
    mismatch: Mismatch = Mismatch()
    scaling: Scaling | None = None
    report: Report

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the list of students."""
        return list(self.students)

    @property
    def few_step(self) -> dict[str, TrajectoryDistillation]:
        """The training of every few-step student."""
        return {**self.trajectory_distillation, **(self.second_stage.methods if self.second_stage else {})}

    def start_of(self, method: str) -> str | None:
        """The method whose student this one starts from; None is the teacher."""
        if self.second_stage and method in self.second_stage.methods:
            return self.second_stage.teacher_method
        return next((start for start, methods in self.start.items() if method in methods and start != TEACHER), None)

    def sampled_at(self, method: str) -> Sampling:
        """What a student is sampled at, with the numbers of time stamps that it was trained for where none are named."""
        asked = self.students[method]
        if method in self.few_step and asked.num_steps is None:
            return Sampling(num_steps=self.few_step[method].num_steps, guidance=asked.guidance)
        return asked

    @model_validator(mode="after")
    def _names(self) -> Self:
        """Every student is trained by one section and stands in the list of students."""
        trained = [*self.score_distillation, *self.few_step]
        if taken := OF_SCALING & {*trained}:
            raise ValueError(f"{', '.join(sorted(taken))} is the name of a stage: a method needs another")
        if both := sorted({name for name in trained if trained.count(name) > 1}):
            raise ValueError(f"a method has one name in one section; {both} stand in two")
        if missing := [name for name in trained if name not in self.students]:
            raise ValueError(f"students must hold {', '.join(missing)} too: it says what each is sampled at ({{}} for a one-step student)")
        if unknown := [name for name in self.students if name not in trained]:
            raise ValueError(f"students names {', '.join(unknown)}, which no section trains; trained: {', '.join(trained)}")
        return self

    @model_validator(mode="after")
    def _starts(self) -> Self:
        """The lists of `start` hold every one-step student once; one that starts from a student starts from one of one evaluation."""
        listed = [name for methods in self.start.values() for name in methods]
        if sorted(listed) != sorted(self.score_distillation):
            raise ValueError(
                f"start must name each method of score_distillation once: {', '.join(self.score_distillation)}; found {', '.join(listed)}"
            )
        for start, methods in self.start.items():
            if start == TEACHER:
                continue
            p = self.few_step.get(start)
            if p is None or not (p.afs and p.num_steps == [3]):
                raise ValueError(f"start.{start} must be a few-step student of one evaluation (num_steps [3], afs)")
            if bad := [name for name in methods if self.score_distillation[name].student_start != "teacher"]:
                raise ValueError(f"{bad}: a student that starts from {start} cannot start at random too; leave student_start out")
        if TEACHER not in self.start:
            raise ValueError("start must have a list `teacher` (it may be empty): the methods that start from the teacher")
        return self

    @model_validator(mode="after")
    def _sampled(self) -> Self:
        """Few-step students are sampled with as many time stamps as leave an evaluation, one-step students at one."""
        for name, sampling in self.students.items():
            p = self.few_step.get(name)
            if p is None and sampling != Sampling():
                raise ValueError(f"students.{name} is a one-step student: it is sampled at one evaluation, and says {{}}")
            if p is not None and (bad := [n for n in sampling.num_steps or [] if n < 2 + p.afs]):
                raise ValueError(f"students.{name}.num_steps {bad}: at least {2 + p.afs} time stamps are needed, or no evaluation is left")
        return self

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if isinstance(self.teacher, TrainedTeacher) and self.teacher.net.resolution != self.data.resolution:
            raise ValueError(f"teacher.net.resolution = {self.teacher.net.resolution} must be data.resolution = {self.data.resolution}")
        return self

    @model_validator(mode="after")
    def _scaling(self) -> Self:
        """Sizes of the built-in U-Net, which has to be one that is trained here."""
        if self.scaling is None:
            return self
        if not (isinstance(self.teacher, TrainedTeacher) and isinstance(self.teacher.net, UNetParameters)):
            raise ValueError("scaling varies the size of a teacher that is trained here, a built-in U-Net: this suite's is another")
        for channels in self.scaling.channels.values():
            UNetParameters(**{**self.teacher.net.model_dump(), "channels": channels})  # levels and attention have to fit each
        return self

    @model_validator(mode="after")
    def _classifier(self) -> Self:
        """A classifier is imported from where the user's own teacher is."""
        if isinstance(self.classifier, ImportedClassifier) and not getattr(self.teacher, "source", "").startswith("own-"):
            raise ValueError("classifier.source = 'own-backtrail' lies beside a teacher of your own: import the teacher too, or train it")
        return self

    @model_validator(mode="after")
    def _curves(self) -> Self:
        if "classifier" not in self.metrics.extractors:
            raise ValueError("metrics.extractors must hold classifier: the curves are measured in its features")
        return self

    @model_validator(mode="after")
    def _inception(self) -> Self:
        """Said in every suite, since dvc.yaml takes the path from here."""
        if "inception" not in self.metrics.model_fields_set:
            raise ValueError("metrics.inception is missing: write {local: data/local}, the folder where files got by hand would lie")
        return self

    @model_validator(mode="after")
    def _paths(self) -> Self:
        """Said for every method, since dvc.yaml takes from here what a path depends on."""
        for name, p in self.score_distillation.items():
            if missing := [field for field in PathParameters.model_fields if field not in p.model_fields_set]:
                raise ValueError(f"score_distillation.{name} must say {', '.join(missing)}: its path depends on it")
        return self

    @model_validator(mode="after")
    def _second_stage(self) -> Self:
        """The time stamps of a second stage's teacher are those that it was trained on."""
        stage = self.second_stage
        if stage is None:
            return self
        first = self.trajectory_distillation.get(stage.teacher_method)
        if first is None:
            raise ValueError(f"second_stage.teacher_method = {stage.teacher_method!r} must be a method of trajectory_distillation")
        for name, p in stage.methods.items():
            taught = [p.substeps * (n - 1) + 1 for n in p.num_steps]
            if (p.schedule, p.teacher_afs) != (first.schedule, first.afs) or not set(taught) <= set(first.num_steps):
                raise ValueError(
                    f"second_stage.{name}: its teacher {stage.teacher_method} was trained with {first.num_steps} steps, {first.schedule} "
                    f"and afs = {first.afs}; this asks it for {taught} (substeps x (num_steps - 1) + 1), {p.schedule} and {p.teacher_afs}"
                )
        return self

    @model_validator(mode="after")
    def _axes(self) -> Self:
        self.report.check_axes(self.methods, self.teacher_samples.samplers)
        self.report.check_measured(self.teacher_samples.rows, self.metrics.distances)
        return self

    @model_validator(mode="after")
    def _guidance(self) -> Self:
        """Guidance needs a teacher that knows classes and their absence."""
        asked = guided(self.teacher_samples, self.students, self.score_distillation)
        if asked and isinstance(self.teacher, TrainedTeacher) and not (self.teacher.net.n_classes and self.teacher.label_dropout):
            raise ValueError(
                f"guidance of {', '.join(asked)} needs a conditional teacher: set teacher.net.n_classes and teacher.label_dropout"
            )
        return self


def read_suite(path: str | Path = PARAMS_FILE) -> Suite | RingSuite | TextSuite | LatentSuite:
    """The checked parameters. Raises UserError that names each key that is not allowed, its value and what is allowed."""
    values = read(path)
    if is_ring(values):
        return validate(RingSuite, values, "", path)
    if is_text(values):
        return validate(text_suite(values), values, "", path)
    if is_latent(values):
        return validate(LatentSuite, values, "", path)
    teacher = ImportedTeacher if is_imported(values) else TrainedTeacher
    classifier = ImportedClassifier if is_imported_classifier(values) else ClassifierParameters
    return validate(Suite[teacher, classifier], values, "", path)  # type: ignore[valid-type]
