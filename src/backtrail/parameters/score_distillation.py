"""Parameters of score distillation: Diff-Instruct and DisBack (arXiv 2408.15991)."""

from typing import Literal

from pydantic import Field, model_validator

from backtrail.parameters.base import Distinct, Section
from backtrail.parameters.quantities import Batch, Count, Level, Whole
from backtrail.parameters.training import Adam, Average, LogNormal, NoiseLaw


class Recording(Section):
    """Degradation recording (DisBack, Algorithm 1): the teacher is fitted to the initial student, and nodes are kept on the way."""

    steps: Count = Field(description="Updates at the most (the budget).")
    nodes: Count = Field(description="Nodes kept beside the teacher; the last is the end of the recording.")
    spacing: Literal["every", "log", "loss"] = Field(
        "loss", description="Where nodes are kept: equal steps of updates, of log updates, or of the path's loss on the student's samples."
    )
    candidates: Count = Field(1, description="Updates between two places at which a node may be kept (the path's loss is measured there).")
    optimiser: Adam
    tolerance: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Stop when the path's loss fell by less than this share over the last quarter of the updates; null: the budget alone.",
    )
    evaluation_batch: Batch = Field(256, ge=2, description="Images on which the path's loss is measured.")

    @model_validator(mode="after")
    def _enough(self) -> "Recording":
        if self.steps // self.candidates < self.nodes:
            raise ValueError(f"steps / candidates = {self.steps // self.candidates} places are too few for {self.nodes} nodes")
        return self


class PathParameters(Section):
    """What a degradation path depends on: nothing else that a student is trained with records its path anew.

    A suite states each of them, since dvc.yaml names them one by one.
    """

    recording: Recording | None = Field(
        None, description="How the path is recorded; null is the path of one node, the teacher (Diff-Instruct)."
    )
    student_start: Literal["teacher", "random"] = Field("teacher", description="Weights that the student starts from.")
    sigma_init: Level = Field(2.5, description="Noise level of the student's input, in units of the data.")
    batch: Batch = Field(64, description="Images per update.")
    noise_fake: NoiseLaw = Field(
        LogNormal(), discriminator="kind", description="Law of the noise level in the fake score's loss and the recording."
    )


class ScoreDistillation(PathParameters):
    """A one-step student trained along a path of target scores (DisBack, Algorithm 2); a path of one node is Diff-Instruct."""

    target: Literal["path", "teacher"] = Field(
        "path", description="Walk the path back, or aim at the teacher from the start (warm start only)."
    )
    fake_start: Literal["last-node", "teacher"] = Field("last-node", description="Weights that the fake score starts from.")
    updates: Count = Field(description="Updates of the student.")
    node_updates: Count = Field(1, description="Updates of the student per node of the path; the teacher takes the rest.")
    node_budget: Literal["fixed", "proportional", "adaptive"] = Field(
        "fixed",
        description="Updates per node: node_updates each; in proportion to the node's step of the path's loss (node_updates on average); "
        "or until the mismatch on the node stops falling (node_updates is the window that is compared).",
    )
    order: Literal["fake-first", "student-first"] = Field("fake-first", description="Which of the two is updated first in an iteration.")
    fake_per_student: Count = Field(1, description="Updates of the fake score per update of the student.")
    weighting: Literal["constant", "sigma2", "dmd"] = Field(
        "sigma2", description="Weight of the score difference: 1; sigma^2 (Diff-Instruct's code); DMD's normalisation."
    )
    shared_noise: bool = Field(False, description="Both losses use the same noisy samples: one forward less, another estimator.")
    student: Adam
    fake: Adam
    noise_student: NoiseLaw = Field(LogNormal(), discriminator="kind", description="Law of the noise level in the student's loss.")
    average: Average | None = Field(None, description="Moving average of the student that is evaluated; null: the student itself.")
    dropout: bool = Field(False, description="Dropout of the nets is on in the passes that train student and fake score.")
    nan_to_num: bool = Field(
        False, description="Replace a gradient's NaN by 0 and infinities by 1e5, as the released code does; counted in the log."
    )
    evaluate_every: Count = Field(10, description="Student updates between two evaluations; the snapshots are evaluated too.")
    snapshots: Distinct[Whole] = Field(
        [0], description="Student updates after which student and fake score are kept for the mismatch degree; the last update always is."
    )

    @model_validator(mode="after")
    def _fits(self) -> "ScoreDistillation":
        if self.recording is None and (self.target, self.fake_start) != ("path", "last-node"):
            raise ValueError("target and fake_start other than the defaults need a recording: a path of one node has no other node")
        # The last node is what the fake score starts from, and no target.
        targets = self.recording.nodes - 1 if self.recording is not None and self.target == "path" else 0
        if targets * self.node_updates >= self.updates:
            raise ValueError(f"{targets} nodes before the teacher x {self.node_updates} updates leave it none of {self.updates}")
        if self.shared_noise and self.fake_per_student != 1:
            raise ValueError("shared_noise needs fake_per_student = 1: both losses use the one forward of the fake score")
        if bad := [update for update in self.snapshots if not 0 <= update <= self.updates]:
            raise ValueError(f"snapshots {bad} must lie in 0..{self.updates} (updates)")
        return self
