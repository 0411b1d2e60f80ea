"""Parameters of the noise schedules and of the teacher's own samplers."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from backtrail.parameters.base import ByName, Distinct, Name, Section
from backtrail.parameters.discrete_time import Betas
from backtrail.parameters.quantities import Guidance, Level

SolverName = Literal[
    "euler", "heun", "dpm-2", "dpmpp-1m", "dpmpp-2m", "dpmpp-3m", "dpmpp-1m-eps", "dpmpp-2m-eps", "dpmpp-3m-eps", "dpmpp-2m-full",
    "dpmpp-3m-full", "dpmpp-3m-whole", "ipndm-1", "ipndm-2", "ipndm-3", "ipndm-4", "deis-1", "deis-2", "deis-3", "deis-4",
]  # fmt: skip

SPACINGS = ("leading", "trailing", "linspace")  # schedules made of a teacher's own time steps (`levels.time_steps`)
OF_TIME_STEPS = ("discrete", *SPACINGS)  # schedules that count them
EVALUATIONS_PER_STEP = {name: 2 if name in ("heun", "dpm-2") else 1 for name in get_args(SolverName)}
TimeStamps = Annotated[int, Field(ge=2, le=10_000)]  # how many; a solver makes one step less, and one step is the least


class Schedule(Section):
    """A grid of descending noise levels (`sampling/schedules.py`)."""

    kind: Literal["polynomial", "logsnr", "time_uniform", "discrete", "leading", "trailing", "linspace"] = Field(
        "polynomial",
        description="Spacing of the time stamps. The last three are the network's own time steps as diffusers spaces them, and then t_min.",
    )
    t_min: Level = Field(0.006, description="Smallest noise level, in units of the data (SFD: 0.006; EDM's default is 0.002).")
    t_max: Level = Field(80.0, description="Largest noise level, in units of the data.")
    rho: float = Field(7.0, ge=0.1, le=1000, description="Exponent of the spacing; larger puts more time stamps at low noise.")

    betas: Betas | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Betas of the teacher, for the kinds that count its time steps; null is Stable Diffusion's.",
    )

    @model_validator(mode="after")
    def _descending(self) -> "Schedule":
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min = {self.t_min} must be below t_max = {self.t_max}")
        if self.betas is not None and self.kind not in OF_TIME_STEPS:
            raise ValueError(f"betas are for the kinds {', '.join(OF_TIME_STEPS)}; found {self.kind}")
        return self


class TeacherSampler(Section):
    """A solver of the teacher's ODE and the lengths at which it is sampled."""

    solver: SolverName = Field(description="Name of a solver in `sampling/solvers.py`.")
    num_steps: Distinct[TimeStamps] = Field(min_length=1, description="Numbers of time stamps.")
    schedule: Schedule = Field(Schedule(), description="Time stamps.")
    afs: bool = Field(False, description="The first step is the analytical one and costs no evaluation.")
    guidance: Guidance = Field(1.0, description="Weight w of classifier-free guidance; 1 is none, another doubles the evaluations.")
    threshold: bool = Field(False, description="Dynamic thresholding of the estimates, as the diff-solvers code has it in DPM-Solver++.")

    @model_validator(mode="after")
    def _x0(self) -> "TeacherSampler":
        if self.threshold and (not self.solver.startswith("dpmpp") or self.solver.endswith("-eps")):
            raise ValueError(f"threshold goes with the solvers that predict x0 (dpmpp-1m and others); found {self.solver}")
        return self

    @model_validator(mode="after")
    def _evaluates(self) -> Self:
        if min(self.nfe(n) for n in self.num_steps) < 1:
            raise ValueError("2 time stamps with the analytical first step (afs) leave no network evaluation: 3 are the least")
        return self

    def nfe(self, num_steps: int) -> int:
        """Network evaluations per image with so many time stamps, both branches of guidance counted."""
        return ((num_steps - 1) * EVALUATIONS_PER_STEP[self.solver] - self.afs) * (1 if self.guidance == 1 else 2)


class TeacherSamples(Section):
    """How the teacher itself is sampled: the reference that students are held against, and the solvers that they compete with."""

    samplers: ByName[TeacherSampler] = Field(min_length=1, description="By the name that figures and tables show.")
    reference: Name = Field(description="Name of the sampler that stands for the teacher at its best.")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.reference not in self.samplers:
            raise ValueError(f"reference = {self.reference} is none of the samplers: {', '.join(self.samplers)}")
        return self

    @property
    def rows(self) -> list[str]:
        """What is sampled, as the archive of samples names it: sampler/nfeN."""
        return [f"{name}/nfe{sampler.nfe(n)}" for name, sampler in self.samplers.items() for n in sampler.num_steps]
