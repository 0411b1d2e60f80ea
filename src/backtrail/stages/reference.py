"""`backtrail reference`: what samples are compared with, and what the metric says of real, noised and blurred images."""

from pathlib import Path

import click

from backtrail.artifacts import save_json
from backtrail.data.dataset import load_dataset
from backtrail.metrics.features import EXTRACTORS
from backtrail.metrics.ranking import real_images
from backtrail.metrics.reference import save_reference
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.running.torch_stage import torch_stage
from backtrail.stages.measures import load_extractor, load_measure, reference_file, weights_files

DATASET = "data/dataset.safetensors"


@click.command()
@click.option("--extractor", "name", required=True, type=click.Choice(list(EXTRACTORS)), help="Whose features.")
def command(name: str) -> None:
    """Feature statistics of training images; the real-against-real floor; whether the distance ranks noised and blurred images."""
    p = section(Metrics, "metrics")
    out, values = reference_file(name), f"results/reference/{name}.json"
    published = published_statistics(name, p)
    inputs = [DATASET, *weights_files([name]), *([str(published)] if published else [])]
    with torch_stage(f"reference@{name}", __name__, {"metrics": p}, inputs, [out, values]) as stage:
        dataset = load_dataset(DATASET)
        save_reference(out, load_extractor(name, stage.device), dataset.train_images, p, published)
        save_json(values, {"extractor": name, **real_images(dataset.test_images, load_measure(name, stage.device), p)})


def published_statistics(name: str, p: Metrics) -> Path | None:
    """The fetched file with EDM's statistics, if the extractor is FID's and the parameters name one."""
    if name != "inception" or p.inception is None or p.inception.reference is None:
        return None
    return Path("data/inception") / f"{p.inception.reference.removeprefix('reference-')}.npz"
