"""Parameters of the noise schedules and of the teacher's own samplers."""

from typing import Literal

from pydantic import Field, model_validator

from backtrail.parameters.base import Section

SolverName = Literal[
    "euler", "heun", "dpm-2", "dpmpp-1m", "dpmpp-2m", "dpmpp-3m", "dpmpp-1m-eps", "dpmpp-2m-eps", "dpmpp-3m-eps", "dpmpp-2m-full",
    "dpmpp-3m-full", "dpmpp-3m-whole", "ipndm-1", "ipndm-2", "ipndm-3", "ipndm-4", "deis-1", "deis-2", "deis-3", "deis-4",
]  # fmt: skip


class Schedule(Section):
    """A grid of descending noise levels (`sampling/schedules.py`)."""

    kind: Literal["polynomial", "logsnr", "time_uniform", "discrete"] = Field("polynomial", description="Spacing of the time stamps.")
    t_min: float = Field(0.006, gt=0, description="Smallest noise level, in units of the data (SFD: 0.006; EDM's default is 0.002).")
    t_max: float = Field(80.0, gt=0, description="Largest noise level, in units of the data.")
    rho: float = Field(7.0, gt=0, description="Exponent of the spacing; larger puts more time stamps at low noise.")

    @model_validator(mode="after")
    def _descending(self) -> "Schedule":
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min = {self.t_min} must be below t_max = {self.t_max}")
        return self


class TeacherSampler(Section):
    """A solver of the teacher's ODE and the lengths at which it is sampled."""

    solver: SolverName = Field(description="Name of a solver in `sampling/solvers.py`.")
    num_steps: list[int] = Field(min_length=1, description="Numbers of time stamps; a solver makes one step less than there are stamps.")
    schedule: Schedule = Field(Schedule(), description="Time stamps.")
    afs: bool = Field(False, description="The first step is the analytical one and costs no evaluation.")
    guidance: float = Field(1.0, ge=0, description="Weight w of classifier-free guidance; 1 is none, another doubles the evaluations.")
    threshold: bool = Field(False, description="Dynamic thresholding of the estimates, as the diff-solvers code has it in DPM-Solver++.")

    @model_validator(mode="after")
    def _x0(self) -> "TeacherSampler":
        if self.threshold and (not self.solver.startswith("dpmpp") or self.solver.endswith("-eps")):
            raise ValueError(f"threshold goes with the solvers that predict x0 (dpmpp-1m and others); found {self.solver}")
        return self


class TeacherSamples(Section):
    """How the teacher itself is sampled: the reference that students are held against, and the solvers that they compete with."""

    samplers: dict[str, TeacherSampler] = Field(description="By the name that figures and tables show.")
    reference: str = Field(description="Name of the sampler that stands for the teacher at its best.")
