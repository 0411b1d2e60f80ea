"""`backtrail reference`: what samples are compared with, and what the metric says of real, noised and blurred images."""

from pathlib import Path

import click

from backtrail.artifacts import save_json
from backtrail.cli.measures import CLASSIFIER, load_measure, reference_file
from backtrail.cli.torch_stage import torch_stage
from backtrail.data.dataset import load_dataset
from backtrail.metrics.features import EXTRACTORS, extractor
from backtrail.metrics.ranking import real_images
from backtrail.metrics.reference import save_reference
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics

DATASET = "data/dataset.safetensors"


@click.command()
@click.option("--extractor", "name", required=True, type=click.Choice(list(EXTRACTORS)), help="Whose features.")
def command(name: str) -> None:
    """Feature statistics of training images; the real-against-real floor; whether the distance ranks noised and blurred images."""
    p = section(Metrics, "metrics")
    out, values = reference_file(name), f"results/reference/{name}.json"
    with torch_stage(f"reference@{name}", __name__, {"metrics": p}, [DATASET, CLASSIFIER], [out, values]):
        dataset = load_dataset(DATASET)
        save_reference(out, extractor(name, Path(CLASSIFIER)), dataset.train_images, p)
        save_json(values, {"extractor": name, **real_images(dataset.test_images, load_measure(name), p)})
