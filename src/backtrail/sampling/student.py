"""How a student is sampled: by what its file says of it, and what the list of students asks for."""

from typing import Any

from backtrail.parameters.sampling import Schedule
from backtrail.parameters.students import Sampling
from backtrail.sampling.sample import Sampler


def few_step_sampler(facts: dict[str, Any], num_steps: int, step_condition: bool = False, guidance: float = 1.0) -> Sampler:
    """A few-step student takes Euler steps on the time stamps that it was trained on; `step_condition` is its net's.

    facts: what its file says under `sampled`: schedule, afs (the analytical first step), num_steps (the lengths that it was trained for).
    """
    schedule = Schedule.model_validate(facts["schedule"])
    return Sampler("euler", num_steps, schedule, facts["afs"], step_condition=step_condition, guidance=guidance)


def samplers(facts: dict[str, Any], asked: Sampling, step_condition: bool = False) -> tuple[list[Sampler], list[int]]:
    """The samplers that a student is measured with, and the numbers of evaluations that it was trained for."""
    if "sigma_init" in facts:
        return [Sampler(sigma_init=facts["sigma_init"])], [1]
    lengths = asked.num_steps or facts["num_steps"]
    ways = [few_step_sampler(facts, n, step_condition, w) for w in asked.guidance for n in lengths]
    return ways, [few_step_sampler(facts, n).nfe for n in facts["num_steps"]]


def source_name(sampler: Sampler) -> str:
    """The name under which a student's images stand: its own, with the weight of guidance where there is some."""
    return "student" if sampler.guidance == 1 else f"student-w{sampler.guidance:g}"
