"""Parameters of the small classifier whose features measure the data set: one that is trained here, or one that is imported."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from backtrail.layout import PARAMS_FILE
from backtrail.parameters.base import Section, read, section
from backtrail.parameters.quantities import Batch, Count, LearningRate, Seed


class ClassifierParameters(Section):
    """The classifier (`nets/classifier.py`) and its training: Adam, warm-up over a tenth of the steps, then cosine to zero."""

    width: int = Field(32, ge=4, le=256, description="Channels of the first two convolutions; the third has twice as many.")
    n_steps: Count = Field(1500, description="Training steps, count.")
    batch_size: Batch = Field(128, ge=2, description="Images per training step, count.")
    learning_rate: LearningRate = Field(5e-3, description="Adam's learning rate at its height.")
    seed: Seed = Field(0, description="Seed of the initial weights and of the order of the images.")


class ImportedClassifier(Section):
    """The classifier of the suite that the teacher comes from: it lies beside the teacher, and is for the same data set."""

    source: Literal["own-backtrail"] = Field(description="`own-backtrail`: `classifier.safetensors` beside the teacher, in teacher.local")


def is_imported_classifier(values: dict[str, Any]) -> bool:
    """Whether the classifier of the parameters `values` (the whole file) is an imported one: it names a source."""
    classifier = values.get("classifier")
    return isinstance(classifier, dict) and "source" in classifier


def classifier_section(path: str | Path = PARAMS_FILE) -> ClassifierParameters | ImportedClassifier:
    """The section `classifier`, of either kind. Raises UserError if one of its values is not allowed."""
    return section(ImportedClassifier if is_imported_classifier(read(path)) else ClassifierParameters, "classifier", path)
