"""How the student of each family is found and sampled."""

from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.sampling.sample import Sampler
from backtrail.sampling.student import StudentSampling
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


def samplers(p: ScoreDistillation | TrajectoryDistillation, sampling: StudentSampling) -> list[Sampler]:
    """The samplers that a student is measured with."""
    if isinstance(p, ScoreDistillation):
        return sampling.samplers([], [1.0])
    return sampling.samplers(p.sample_num_steps, p.guidance)


def source_name(sampler: Sampler) -> str:
    """The name under which a student's images stand: its own, with the weight of guidance where there is some."""
    return "student" if sampler.guidance == 1 else f"student-w{sampler.guidance:g}"
