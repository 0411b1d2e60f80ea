"""`backtrail classifier`: the small classifier whose features the curves are measured in."""

from backtrail import layout
from backtrail.artifacts import save_json
from backtrail.data.dataset import load_dataset
from backtrail.metrics.classifier import ROTATIONS, accuracy, rotation_task, save_classifier, train_classifier
from backtrail.parameters.classifier import ClassifierParameters
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.training.progress import progress


@torch_stage
def command(stage: TorchStage) -> None:
    """Train the classifier on the data set; writes its weights and its accuracy on the test images.

    Where the data set has fewer than two classes, it learns which way up an image is.
    """
    p, dataset = stage.section(ClassifierParameters, "classifier"), load_dataset(layout.DATASET)
    train, test, n_classes = (dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels), dataset.n_classes
    if n_classes < 2:
        train, test, n_classes = rotation_task(train[0], p.seed), rotation_task(test[0], p.seed), ROTATIONS
    with progress(p.n_steps) as tick:
        net = train_classifier(*train, n_classes, p, lambda step, loss: tick(step + 1))
    save_classifier(layout.CLASSIFIER, net, dataset=dataset.digest)
    save_json(layout.CLASSIFIER_VALUES, {"accuracy": accuracy(net, *test), "n_images": len(dataset.test_images)})
