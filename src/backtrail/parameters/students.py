"""Parameters of the one list of students: what each is sampled at. How it is trained stands in the section of its family."""

from pydantic import Field

from backtrail.parameters.base import Distinct, Section
from backtrail.parameters.quantities import Guidance
from backtrail.parameters.sampling import TimeStamps


class Sampling(Section):
    """What a student is sampled at. A one-step student has nothing to say: it makes one evaluation, at its own noise level."""

    num_steps: Distinct[TimeStamps] | None = Field(
        None, min_length=1, description="Time stamps at which a few-step student is sampled and measured; null: those it was trained for."
    )
    guidance: Distinct[Guidance] = Field(
        [1.0], min_length=1, description="Weights of classifier-free guidance at which it is sampled; 1 is none."
    )
