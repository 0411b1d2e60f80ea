"""How the student of each family is sampled."""

from backtrail.errors import UserError
from backtrail.parameters.base import read, section
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.sampling.sample import Sampler

Method = ScoreDistillation | TrajectoryDistillation


def method_parameters(method: str) -> Method:
    """The parameters of a method, in whichever section it stands. Raises UserError if it stands in none."""
    values = read()
    for key, model in (("score_distillation", ScoreDistillation), ("trajectory_distillation", TrajectoryDistillation)):
        if method in (values.get(key) or {}):
            return section(model, f"{key}.{method}")
    known = [name for key in ("score_distillation", "trajectory_distillation") for name in values.get(key) or {}]
    raise UserError(f"params.yaml has no method {method!r}; known: {', '.join(known)}")


def trajectory_sampler(p: TrajectoryDistillation, num_steps: int) -> Sampler:
    """A few-step student takes Euler steps on the time stamps that it was trained on."""
    return Sampler("euler", num_steps, p.schedule, p.afs, step_condition=p.step_condition != "none")


def samplers(p: Method) -> tuple[list[Sampler], list[int]]:
    """The samplers that a student is measured with, and the numbers of evaluations that it was trained for."""
    if isinstance(p, ScoreDistillation):
        return [Sampler(sigma_init=p.sigma_init)], [1]
    return [trajectory_sampler(p, n) for n in p.sample_num_steps], [trajectory_sampler(p, n).nfe for n in p.num_steps]
