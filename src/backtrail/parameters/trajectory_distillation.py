"""Parameters of trajectory distillation: Algorithm 1 and SFD, SFD-v (arXiv 2409.19681)."""

from typing import Literal

from pydantic import Field, model_validator

from backtrail.parameters.base import ByName, Distinct, Name, RelativePath, Section
from backtrail.parameters.quantities import Batch, Count
from backtrail.parameters.sampling import Schedule, SolverName, TimeStamps
from backtrail.parameters.training import Adam


class LPIPSWeights(Section):
    """VGG16's weights for LPIPS (`methods/sfd/lpips.py`), supplied by hand: they are not free to be passed on with every package."""

    file: RelativePath = Field(description="torchvision's file of VGG16 (vgg16-397923af.pth), as it is published.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Digest that the file must have.")


class TrajectoryDistillation(Section):
    """A few-step student that imitates the teacher's solver at its own, coarser time stamps."""

    inputs: Literal["trajectory", "data"] = Field(
        "trajectory",
        description="Where the student's input comes from: its own walk from noise (SFD, Algorithm 2) or noisy data (Algorithm 1).",
    )
    num_steps: Distinct[TimeStamps] = Field(
        [4], min_length=1, description="Time stamps of the student; one is drawn per round (SFD-v has several)."
    )
    step_condition: Literal["none", "zero", "random"] = Field(
        "none",
        description="Tell the student num_steps (SFD-v): no; yes, new layers started at zero; or at random as the released code does.",
    )
    substeps: Count = Field(4, description="Steps K of the teacher's solver per step of the student.")
    solver: SolverName = Field("dpmpp-3m", description="The teacher's solver (`sampling/solvers.py`).")
    schedule: Schedule = Field(Schedule(), description="Time stamps of student and teacher.")
    afs: bool = Field(True, description="The student's first step is the analytical one: no evaluation, no update.")
    loss: Literal["l1", "l2", "huber", "l1+lpips"] = Field(
        "l1",
        description="Distance between student and teacher, summed over an image, mean over images; l1+lpips adds LPIPS in the last step.",
    )
    lpips: LPIPSWeights | None = Field(None, description="Weights of LPIPS, needed by the loss l1+lpips.")
    teacher_afs: bool = Field(False, description="The teacher's first step is the analytical one (a student of a first stage with AFS).")
    rounds: Count = Field(description="Passes over a batch of trajectories; a pass makes one update per step of the student.")
    batch: Batch = Field(64, description="Trajectories per round.")
    pool: Count = Field(description="Batches of teacher trajectories per num_steps; each seed goes through them in its own order.")
    cached: bool = Field(True, description="Compute the pool once, in the stage `trajectories`; false computes each batch when it is used.")
    optimiser: Adam
    decay_at: float = Field(0.5, gt=0, le=1, description="Share of the rounds (and one) after which the rate is divided by ten.")
    dropout: bool = Field(False, description="Dropout of the net is on while the student trains, as in the released code.")
    evaluate_every: Count = Field(20, description="Rounds between two evaluations.")

    @model_validator(mode="after")
    def _fits(self) -> "TrajectoryDistillation":
        smallest = 3 if self.afs else 2
        if bad := [n for n in self.num_steps if n < smallest]:
            raise ValueError(f"num_steps {bad}: at least {smallest} time stamps are needed, or no network evaluation is left")
        if (self.loss == "l1+lpips") != (self.lpips is not None):
            raise ValueError("the loss l1+lpips and the weights `lpips` go together: give both or neither")
        if self.teacher_afs and self.inputs == "data":
            raise ValueError("teacher_afs needs inputs = trajectory: an analytical step is for noise and not for noisy data")
        if len(self.num_steps) > 1 and self.step_condition == "none":
            raise ValueError("several num_steps need a step_condition (zero or random): the student must know which one is asked of it")
        return self


class SecondStage(Section):
    """SFD's second stage: a few-step student is the teacher, and the start, of one with fewer steps."""

    teacher_method: Name = Field(
        description="Method of trajectory_distillation whose student, of the same seed, is the teacher; it keeps its step condition."
    )
    methods: ByName[TrajectoryDistillation] = Field(
        min_length=1, description="As in trajectory_distillation, for solver = euler on the teacher's steps."
    )

    @model_validator(mode="after")
    def _teachers(self) -> "SecondStage":
        for name, p in self.methods.items():
            if p.step_condition != "none" or p.inputs != "trajectory" or p.solver != "euler":
                raise ValueError(f"{name}: a second stage keeps its teacher's step condition, solver and inputs: none, euler, trajectory")
            if p.cached:
                raise ValueError(f"{name}: cached must be false, since each seed has a teacher of its own")
        return self
