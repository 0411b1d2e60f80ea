"""How a student is sampled, as facts that its file carries: no parameter of its training is needed to draw images from it."""

from pathlib import Path
from typing import Literal

from backtrail.errors import UserError
from backtrail.parameters.base import Section, validate
from backtrail.parameters.sampling import Schedule
from backtrail.sampling.sample import Sampler
from backtrail.tensors import load_tensors


class OneStep(Section):
    """One evaluation at the noise level of the student's input."""

    kind: Literal["one-step"] = "one-step"
    sigma_init: float

    @property
    def trained_nfe(self) -> list[int]:
        """The numbers of evaluations that it was trained for."""
        return [1]

    def samplers(self, num_steps: list[int] | None, guidance: list[float]) -> list[Sampler]:
        """A sampler for each weight of guidance; it has no time stamps to choose from."""
        return [Sampler(sigma_init=self.sigma_init, guidance=w) for w in guidance]


class FewStep(Section):
    """Euler steps on the time stamps of a schedule.

    step_condition: whether the student is told how many there are; num_steps: the numbers of time stamps that it was trained for.
    """

    kind: Literal["few-step"] = "few-step"
    schedule: Schedule
    afs: bool
    step_condition: bool
    num_steps: list[int]

    @property
    def trained_nfe(self) -> list[int]:
        """The numbers of evaluations that it was trained for."""
        return [sampler.nfe for sampler in self.samplers(self.num_steps, [1.0])]

    def samplers(self, num_steps: list[int] | None, guidance: list[float]) -> list[Sampler]:
        """A sampler for each weight of guidance and each number of time stamps; without numbers, those that it was trained for."""
        lengths = num_steps or self.num_steps
        return [Sampler("euler", n, self.schedule, self.afs, self.step_condition, guidance=w) for w in guidance for n in lengths]


StudentSampling = OneStep | FewStep
KINDS: dict[str, type[OneStep] | type[FewStep]] = {"one-step": OneStep, "few-step": FewStep}


def student_sampling(path: str | Path) -> StudentSampling:
    """How the student in the file `path` is sampled. Raises UserError if the file does not say."""
    facts = load_tensors(path)[1].get("sampling")
    if not isinstance(facts, dict) or (kind := facts.get("kind")) not in KINDS:
        raise UserError(f"{path} does not say how its student is sampled: run the stage that makes it again")
    return validate(KINDS[kind], facts, "sampling", path)
