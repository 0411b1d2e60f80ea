"""How the student of each family is found and sampled."""

from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.sampling.sample import Sampler
from backtrail.stages.method import Method, find_method

MODELS: dict[str, type[ScoreDistillation] | type[TrajectoryDistillation]] = {
    "score": ScoreDistillation,
    "started-score": ScoreDistillation,
    "trajectory": TrajectoryDistillation,
    "second-stage": TrajectoryDistillation,
}


def find_student(name: str) -> Method[ScoreDistillation | TrajectoryDistillation]:
    """The method, in whichever section it stands. Raises UserError if it stands in none."""
    return find_method(name, MODELS)


def trajectory_sampler(p: TrajectoryDistillation, num_steps: int, step_condition: bool = False, guidance: float = 1.0) -> Sampler:
    """A few-step student takes Euler steps on the time stamps that it was trained on; `step_condition` is its net's."""
    return Sampler("euler", num_steps, p.schedule, p.afs, step_condition=step_condition, guidance=guidance)


def samplers(p: ScoreDistillation | TrajectoryDistillation, step_condition: bool = False) -> tuple[list[Sampler], list[int]]:
    """The samplers that a student is measured with, and the numbers of evaluations that it was trained for."""
    if isinstance(p, ScoreDistillation):
        return [Sampler(sigma_init=p.sigma_init)], [1]
    ways = [trajectory_sampler(p, n, step_condition, w) for w in p.guidance for n in p.sample_num_steps]
    return ways, [trajectory_sampler(p, n).nfe for n in p.num_steps]


def source_name(sampler: Sampler) -> str:
    """The name under which a student's images stand: its own, with the weight of guidance where there is some."""
    return "student" if sampler.guidance == 1 else f"student-w{sampler.guidance:g}"
