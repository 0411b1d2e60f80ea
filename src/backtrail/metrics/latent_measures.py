"""What decoded images of a published latent teacher are measured by: Frechet distances by protocol, CLIP scores by convention.

Images are measured as they come, a chunk at a time: 30,000 of 512 pixels are 24 GB, their features a quarter of one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backtrail import layout
from backtrail.data.real_images import RealImageFile, prepared_made
from backtrail.metrics.clip_score import ClipModel, score
from backtrail.metrics.features import Extractor
from backtrail.metrics.frechet import factor, frechet_distance, moments
from backtrail.metrics.measures import load_extractor
from backtrail.metrics.reference import Reference, load_reference
from backtrail.parameters.latent import FrechetProtocol, LatentEvaluation
from backtrail.tensors import save_tensors

Way = tuple[str, str]  # how images are prepared, and the extractor: what a reference depends on


def way_of(p: FrechetProtocol) -> Way:
    """What the features of a protocol depend on."""
    return p.images, p.extractor


def reference_file(way: Way) -> str:
    """Where the statistics of real images lie."""
    return layout.reference("-".join(way))


def load_extractors(e: LatentEvaluation, device: torch.device | str) -> dict[str, Extractor]:
    """The extractors that the protocols name. Raises UserError if Inception's file is absent or another."""
    return {name: load_extractor(name, device) for name in dict.fromkeys(p.extractor for p in e.frechet)}


def real_features(extractor: Extractor, images: RealImageFile, way: Way, side: int, n: int, batch_size: int) -> Tensor:
    """Features float32 [n, d] of the first n real images."""
    return torch.cat([extractor.features(torch.from_numpy(x), batch_size) for x in images.batches(way[0], side, n, batch_size)])


def save_real(way: Way, extractor: Extractor, features: Tensor, batch_size: int, **extra: Any) -> None:
    """Write the statistics of real images' features, to be read by `reference.load_reference`."""
    mean, covariance = moments(features)
    about = {"extractor": extractor.name, "extractor_sha256": extractor.digest, "resize": extractor.resize, "dtype": extractor.dtype}
    tensors = {"mean": mean, "factor": factor(covariance), "features": features[:1]}
    save_tensors(reference_file(way), tensors, about | {"images": way[0], "batch_size": batch_size, "n_images": len(features), **extra})


@dataclass
class Measures:
    """Extractors, references and CLIP models of a suite."""

    e: LatentEvaluation
    extractors: dict[str, Extractor]
    references: dict[Way, Reference]
    clip: list[ClipModel] = field(default_factory=list)

    def of(
        self, chunks: Iterable[tuple[Tensor, Sequence[str] | None]], tick: Callable[[int], None] = lambda done: None
    ) -> dict[str, float]:
        """The values of images that come in chunks, uint8 [n, 3, H, W] each with their captions; the first of all are counted."""
        features: dict[Way, list[Tensor]] = {way: [] for way in self.references}
        cosines: list[list[Tensor]] = [[] for _ in self.clip]
        done = 0
        for images, captions in chunks:
            for way, found in features.items():
                most = max(p.n_images for p in self.e.frechet if way_of(p) == way)
                if done < most:
                    own = torch.from_numpy(prepared_made(images[: most - done].numpy(), way[0]))
                    found.append(self.extractors[way[1]].features(own, self.e.batch_size))
            for model, told in zip(self.clip, cosines, strict=True):
                if done < model.p.n_images and captions is not None:
                    n = min(model.p.n_images - done, len(images))
                    told.append(model.cosines(images[:n], captions[:n]))
            done += len(images)
            tick(done)
        whole = {way: torch.cat(found) for way, found in features.items()}
        values = {}
        for p in self.e.frechet:
            reference = self.references[way_of(p)]
            values[p.name] = frechet_distance(whole[way_of(p)][: p.n_images], reference.mean, reference.factor)
        scores = zip(self.clip, cosines, strict=True)
        return values | {model.p.name: score(torch.cat(told), model.p) for model, told in scores if told}

    def protocol(self) -> list[dict[str, Any]]:
        """What stands beside the values, an entry each."""
        entries = []
        for p in self.e.frechet:
            extractor, reference = self.extractors[p.extractor], self.references[way_of(p)]
            about = {
                "extractor": extractor.name,
                "extractor_sha256": extractor.digest,
                "resize": extractor.resize,
                "dtype": extractor.dtype,
            }
            counted = {"n_images": p.n_images, "n_reference": reference.n_images, "reference_sha256": reference.sha256}
            prepared = {"images": p.images, "quantised": "8 bits, rounded, before and after a crop"}
            entries.append({"metric": p.name, **about, **prepared, **counted, "settings": {"batch_size": self.e.batch_size}})
        return entries + [model.protocol() for model in self.clip]

    def first(self) -> FrechetProtocol:
        """The protocol of curves."""
        return self.e.frechet[0]

    def curve_distance(self, images: Tensor) -> float:
        """The Frechet distance of a few images in the first protocol's features, which is no FID of a table."""
        way = way_of(self.first())
        features = self.extractors[way[1]].features(torch.from_numpy(prepared_made(images.numpy(), way[0])), self.e.batch_size)
        return frechet_distance(features, self.references[way].mean, self.references[way].factor)


def load_measures(e: LatentEvaluation, device: torch.device | str, clip: str | Path | None = None) -> Measures:
    """What the suite in this folder measures by; clip: the folder of CLIP's weights, None leaves its scores out.

    Raises UserError if a file is absent, damaged or another's.
    """
    extractors = load_extractors(e, device)
    references = {way: load_reference(reference_file(way), extractors[way[1]]) for way in dict.fromkeys(map(way_of, e.frechet))}
    return Measures(e, extractors, references, [] if clip is None else [ClipModel(p, clip, device) for p in e.clip])


def of_count(e: LatentEvaluation, n: int) -> LatentEvaluation:
    """The same protocols on n images, by whose names their values then go; without CLIP scores."""
    distances = [p.model_copy(update={"n_images": n}) for p in e.frechet]
    return e.model_copy(update={"frechet": list({p.name: p for p in distances}.values()), "clip": []})
