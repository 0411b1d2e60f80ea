"""Values with their protocol: a set of images measured in every extractor's features."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from backtrail.errors import UserError
from backtrail.metrics.features import Extractor
from backtrail.metrics.frechet import frechet_distance
from backtrail.metrics.pairs import Pairs, Side
from backtrail.metrics.reference import Reference
from backtrail.parameters.metrics import Metrics

Measure = tuple[Extractor, Reference]
Tick = Callable[[int], None]


class Sets:
    """The features of one set of samples beside the reference's, with the distances that several metrics share."""

    def __init__(self, features: Tensor, reference: Reference, p: Metrics):
        self.features, self.reference, self.p = features, reference, p

    @cached_property
    def pairs(self) -> Pairs:
        n = self.p.n_pairwise
        return Pairs(Side(self.features[:n]), self.reference.side(min(n, len(self.features))))


METRICS: dict[str, Callable[[Sets], float]] = {
    "fd": lambda sets: frechet_distance(sets.features, sets.reference.mean, sets.reference.factor),
    "kid": lambda sets: sets.pairs.kernel_distance(),
    "precision": lambda sets: sets.pairs.precision(sets.p.k_precision),
    "recall": lambda sets: sets.pairs.recall(sets.p.k_precision),
    "density": lambda sets: sets.pairs.density(sets.p.k_density),
    "coverage": lambda sets: sets.pairs.coverage(sets.p.k_density),
}
SETTINGS: dict[str, Callable[[Metrics], dict[str, Any]]] = {
    "fd": lambda p: {},
    "kid": lambda p: {"kernel": "(x . y / d + 1)^3", "estimator": "unbiased, all pairs"},
    "precision": lambda p: {"k": p.k_precision},
    "recall": lambda p: {"k": p.k_precision},
    "density": lambda p: {"k": p.k_density},
    "coverage": lambda p: {"k": p.k_density},
}


def metric_name(metric: str, extractor: Extractor) -> str:
    """The name under which a value stands: `fd_efficientnet_lite0`; in Inception's features a Frechet distance is called FID."""
    return f"{'fid' if metric == 'fd' and extractor.name.startswith('inception') else metric}_{extractor.key}"


def evaluate(images: Tensor, measures: Mapping[str, Measure], p: Metrics) -> dict[str, float]:
    """The values of `p.metrics` in the features of `p.extractors`, named metric_extractor, for example `fd_efficientnet_lite0`.

    images: uint8 [n, C, H, W]. measures: extractor and reference by the extractor's name. Raises UserError if an extractor that `p` names
    is not among them, or if there are not exactly `p.n_samples` images (Frechet distances at other counts cannot be compared).
    """
    if len(images) != p.n_samples:
        raise UserError(f"metrics.n_samples = {p.n_samples}: found {len(images)} images; make the samples again with this number")
    values = {}
    for name in p.extractors:
        extractor, reference = _measure(measures, name)
        sets = Sets(extractor.features(images, p.batch_size), reference, p)
        values.update({metric_name(metric, extractor): METRICS[metric](sets) for metric in p.metrics})
    return values


def evaluate_samplings(images: Tensor, measures: Mapping[str, Measure], p: Metrics) -> dict[str, float]:
    """The values of `p.samplings` sets of `p.n_samples` images, one set after the other in `images`: the mean over the sets.

    Of several sets, Frechet distances are also given as the smallest, `NAME_best`, the number that EDM's protocol reports of three.
    Raises UserError if there are not that many images.
    """
    if len(images) != p.n_drawn:
        raise UserError(f"metrics.n_samples x samplings = {p.n_drawn}: found {len(images)} images; make the samples again with this number")
    sets = [evaluate(part, measures, p) for part in images.split(p.n_samples)]
    values = {name: sum(one[name] for one in sets) / len(sets) for name in sets[0]}
    if len(sets) > 1:
        values |= {f"{name}_best": min(one[name] for one in sets) for name in sets[0] if name.startswith(("fd_", "fid_"))}
    return values


def evaluate_archive(
    sets: Mapping[str, Tensor], about: Mapping[str, Any], measures: Mapping[str, Measure], p: Metrics, tick: Tick = lambda done: None
) -> tuple[dict[str, dict[str, dict[str, float]]], list[dict[str, Any]]]:
    """(values by sampler and number of evaluations, protocol) of an archive of samples; `about` is its header, `tick` counts sets."""
    values: dict[str, dict[str, dict[str, float]]] = {}
    for done, (key, images) in enumerate(sets.items(), start=1):
        sampler, nfe = key.split("/")
        values.setdefault(sampler, {})[nfe] = evaluate_samplings(images, measures, p)
        tick(done)
    return values, protocol(measures, p, (about["first_seed"], about["first_seed"] + about["n_images"]))


def protocol(measures: Mapping[str, Measure], p: Metrics, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What stands beside the values of `evaluate`: one entry per metric. `seeds`: first image seed and the one after the last."""
    entries = []
    for name in p.extractors:
        extractor, reference = _measure(measures, name)
        pairs = min(p.n_pairwise, p.n_samples), min(p.n_pairwise, p.n_samples, len(reference.features))
        for metric in p.metrics:
            n_images, n_reference = (p.n_samples, reference.n_images) if metric == "fd" else pairs
            entry = {
                "metric": metric_name(metric, extractor),
                "extractor": extractor.name,
                "extractor_sha256": extractor.digest,
                "resize": extractor.resize,
                "dtype": extractor.dtype,
                "n_images": n_images,
                "n_reference": n_reference,
                "reference_sha256": reference.sha256,
                "samplings": p.samplings,
                "seeds": list(seeds),
                "settings": {"batch_size": p.batch_size, **SETTINGS[metric](p)},
            }
            entries.append(entry)
            if metric == "fd" and p.samplings > 1:
                entries.append(entry | {"metric": f"{entry['metric']}_best"})
    return entries


def _measure(measures: Mapping[str, Measure], name: str) -> Measure:
    if name not in measures:
        raise UserError(f"metrics.extractors names {name}, and no reference of it was given; given: {', '.join(measures) or 'none'}")
    return measures[name]
