"""`backtrail classifier`: the small classifier whose features the curves are measured in."""

from pathlib import Path

from backtrail import layout
from backtrail.artifacts import save_json
from backtrail.data.dataset import Dataset, load_dataset
from backtrail.data.sources import CLASSIFIER
from backtrail.metrics.classifier import ROTATIONS, accuracy, import_classifier, rotation_task, save_classifier, train_classifier
from backtrail.nets.classifier import Classifier
from backtrail.parameters.classifier import ClassifierParameters, ImportedClassifier, classifier_section
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.training.progress import progress


@torch_stage
def command(stage: TorchStage) -> None:
    """Train the classifier on the data set, or import the one beside the teacher; writes its weights and its accuracy on the test images.

    Where the data set has fewer than two classes, it learns which way up an image is.
    """
    p, dataset = classifier_section(), load_dataset(layout.DATASET)
    imported = isinstance(p, ImportedClassifier)
    net = import_classifier(Path(layout.FETCHED_TEACHER) / CLASSIFIER, dataset.digest) if imported else train(p, dataset)
    test = (dataset.test_images, dataset.test_labels)
    if dataset.n_classes < 2:
        test = rotation_task(test[0], getattr(p, "seed", 0))
    save_classifier(layout.CLASSIFIER, net, dataset=dataset.digest)
    save_json(layout.CLASSIFIER_VALUES, {"accuracy": accuracy(net, *test), "n_images": len(dataset.test_images)})


def train(p: ClassifierParameters, dataset: Dataset) -> Classifier:
    """Train the classifier, with a line of progress."""
    images, labels, n_classes = dataset.train_images, dataset.train_labels, dataset.n_classes
    if n_classes < 2:
        (images, labels), n_classes = rotation_task(images, p.seed), ROTATIONS
    with progress(p.n_steps) as tick:
        return train_classifier(images, labels, n_classes, p, lambda done, loss: tick(done))
