"""Parameters of the small classifier whose features measure the data set."""

from pydantic import Field

from backtrail.parameters.base import Section


class ClassifierParameters(Section):
    """The classifier (`nets/classifier.py`) and its training: Adam, warm-up over a tenth of the steps, then cosine to zero."""

    width: int = Field(32, ge=4, le=256, description="Channels of the first two convolutions; the third has twice as many.")
    n_steps: int = Field(1500, ge=1, description="Training steps, count.")
    batch_size: int = Field(128, ge=2, description="Images per training step, count.")
    learning_rate: float = Field(5e-3, gt=0, description="Adam's learning rate at its height.")
    seed: int = Field(0, ge=0, description="Seed of the initial weights and of the order of the images.")
