"""Both extractors rank real Fashion-MNIST images: real < noise 0.05 < 0.1 < 0.2 < noise only, and real < blur 0.5 < 1 < noise only."""

import os
from pathlib import Path

import pytest
import torch

from backtrail.data.dataset import load_dataset
from backtrail.data.originals import fetch_data
from backtrail.data.prepare import prepare
from backtrail.errors import UserError
from backtrail.metrics.classifier import accuracy, save_classifier, train_classifier
from backtrail.metrics.features import extractor
from backtrail.metrics.ranking import real_images
from backtrail.metrics.reference import load_reference, save_reference
from backtrail.parameters.classifier import ClassifierParameters
from backtrail.parameters.data import Data
from backtrail.parameters.metrics import Metrics

BY_HAND = "FASHION_MNIST_FOLDER"  # environment variable: a folder with the four official .gz files
P = Metrics(n_samples=500, n_curve=300, n_reference=2000, n_pairwise=500)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(request):
    """Fashion-MNIST at 16x16, fetched once into pytest's cache by the project's own code; skipped where no source can be reached."""
    folder = Path(request.config.cache.mkdir("fashion-mnist"))
    data = Data(name="fashion-mnist", resolution=16, local=os.environ.get(BY_HAND, "by-hand"))
    try:
        fetch_data(data, folder / "raw")
    except UserError as error:
        pytest.skip(f"no source of Fashion-MNIST here (set {BY_HAND} to a folder that holds it): {error}")
    prepare(data, folder / "raw", folder / "dataset.safetensors")
    return load_dataset(folder / "dataset.safetensors")


@pytest.fixture(scope="module")
def classifier_file(dataset, tmp_path_factory):
    """The classifier after a fifth of its training."""
    path = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    net = train_classifier(dataset.train_images, dataset.train_labels, dataset.n_classes, ClassifierParameters(n_steps=300))
    save_classifier(path, net, accuracy=accuracy(net, dataset.test_images, dataset.test_labels))
    return path


def test_the_classifier_knows_the_clothes(dataset, classifier_file):
    net = extractor("classifier", classifier_file).network
    assert accuracy(net, dataset.test_images, dataset.test_labels) > 0.85


@pytest.mark.parametrize("name", ["classifier", "efficientnet-lite0"])
def test_real_noised_and_blurred_images_are_ranked(name, dataset, classifier_file, tmp_path):
    e = extractor(name, classifier_file)
    save_reference(tmp_path / "reference.safetensors", e, dataset.train_images, P)
    report = real_images(dataset.test_images, (e, load_reference(tmp_path / "reference.safetensors", e)), P)
    values = report["ranking"]["values"]
    assert report["ranking"]["holds"]
    assert values["real"] < values["noise 0.05"] < values["noise 0.1"] < values["noise 0.2"] < values["noise only"]
    assert values["real"] < values["blur 0.5"] < values["blur 1.0"] < values["noise only"]
    assert values["noise only"] > 10 * values["real"] > 0
    floor = report["floor"]
    assert abs(floor[f"kid_{e.key}"]) < 0.1 and floor[f"density_{e.key}"] == pytest.approx(1, abs=0.25)
    assert min(floor[f"{metric}_{e.key}"] for metric in ("precision", "recall", "coverage")) > 0.7


def test_the_distance_falls_with_the_number_of_images(dataset, classifier_file, tmp_path):
    """Why the number stands in every protocol: the same distribution is further away if fewer images say so."""
    e = extractor("classifier", classifier_file)
    save_reference(tmp_path / "reference.safetensors", e, dataset.train_images, P)
    measure = e, load_reference(tmp_path / "reference.safetensors", e)
    report = real_images(dataset.test_images, measure, P)
    assert report["floor_curve"]["fd_classifier"] > report["floor"]["fd_classifier"] > 0
    assert torch.isfinite(torch.tensor(list(report["floor"].values()))).all()
