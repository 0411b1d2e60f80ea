"""Students of score distillation that start from another method's one-step student."""

from dataclasses import dataclass

from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.build import at_step_condition, load_denoiser
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.stages.method import Method
from backtrail.tensors import load_tensors

SCORE = {"score": ScoreDistillation, "started-score": ScoreDistillation}


@dataclass(frozen=True)
class Start:
    """A student to start from, as a net without a step condition, and what it has cost in forwards of the net on a batch."""

    student: NetDenoiser
    cost: int


def load_start(method: Method[ScoreDistillation], seed: int) -> Start:
    """The student that `method` starts from.

    Raises UserError if it is absent, makes more than one evaluation, or makes it at another noise level than the method's sigma_init.
    """
    file = method.student(seed)
    metadata, sigma = load_tensors(file)[1], method.parameters.sigma_init
    times = metadata.get("times", [])
    if len(times) != 3 or abs(times[1] - sigma) > 1e-3 * sigma:
        raise UserError(
            f"{method.name} starts from {method.start}, whose time stamps are {times}, with sigma_init = {sigma}: "
            "the start must have three time stamps, and sigma_init must be the middle one"
        )
    return Start(at_step_condition(load_denoiser(file), len(times)), metadata["cost"])
