"""Parameters of the small classifier whose features measure the data set."""

from pydantic import Field

from backtrail.parameters.base import Section
from backtrail.parameters.quantities import Batch, Count, LearningRate, Seed


class ClassifierParameters(Section):
    """The classifier (`nets/classifier.py`) and its training: Adam, warm-up over a tenth of the steps, then cosine to zero."""

    width: int = Field(32, ge=4, le=256, description="Channels of the first two convolutions; the third has twice as many.")
    n_steps: Count = Field(1500, description="Training steps, count.")
    batch_size: Batch = Field(128, ge=2, description="Images per training step, count.")
    learning_rate: LearningRate = Field(5e-3, description="Adam's learning rate at its height.")
    seed: Seed = Field(0, description="Seed of the initial weights and of the order of the images.")
