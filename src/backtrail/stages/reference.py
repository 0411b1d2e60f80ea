"""`backtrail reference`: what samples are compared with, and what the metric says of real, noised and blurred images."""

from pathlib import Path

from backtrail import layout
from backtrail.artifacts import save_json
from backtrail.data.dataset import load_dataset
from backtrail.data.sources import SOURCES
from backtrail.metrics.measures import load_extractor, load_measure
from backtrail.metrics.ranking import real_images
from backtrail.metrics.reference import save_reference
from backtrail.parameters.metrics import Metrics
from backtrail.running.torch_stage import TorchStage, torch_stage


@torch_stage
def command(stage: TorchStage) -> None:
    """Feature statistics of training images; the real-against-real floor; whether the distance ranks noised and blurred images."""
    name, p, dataset = stage.declared.item["extractor"], stage.section(Metrics, "metrics"), load_dataset(layout.DATASET)
    published = published_statistics(name, p)
    save_reference(layout.reference(name), load_extractor(name, stage.device), dataset.train_images, p, published)
    values = real_images(dataset.test_images, load_measure(name, stage.device), p)
    save_json(layout.reference_values(name), {"extractor": name, **values})


def published_statistics(name: str, p: Metrics) -> Path | None:
    """The fetched file with statistics that others published in this extractor's features, if the parameters name one."""
    source = p.inception.published.get(name)
    return Path(layout.INCEPTION) / SOURCES[source].files[0].name if source else None
