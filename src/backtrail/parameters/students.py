"""Parameters of the one list of students: what each is sampled at. How it is trained stands in the section of its family."""

from collections.abc import Mapping

from pydantic import Field

from backtrail.parameters.base import Distinct, Section
from backtrail.parameters.quantities import Guidance
from backtrail.parameters.sampling import TeacherSamples, TimeStamps
from backtrail.parameters.score_distillation import ScoreDistillation


class Sampling(Section):
    """What a student is sampled at. A one-step student has nothing to say: it makes one evaluation, at its own noise level."""

    num_steps: Distinct[TimeStamps] | None = Field(
        None, min_length=1, description="Time stamps at which a few-step student is sampled and measured; null: those it was trained for."
    )
    guidance: Distinct[Guidance] = Field(
        [1.0], min_length=1, description="Weights of classifier-free guidance at which it is sampled; 1 is none."
    )


def guided(samples: TeacherSamples, students: Mapping[str, Sampling], score: Mapping[str, ScoreDistillation]) -> list[str]:
    """Who asks for classifier-free guidance: the teacher's samplers, students when they are sampled, students for their targets."""
    asked = [name for name, s in samples.samplers.items() if s.guidance != 1]
    asked += [name for name, s in students.items() if s.guidance != [1.0]]
    return asked + [name for name, p in score.items() if (p.teacher_guidance, p.node_guidance) != (1, 1)]
