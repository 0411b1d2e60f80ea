"""`backtrail latent-reference`: real images in the features of each protocol, and the floor that the first stage sets."""

from collections.abc import Iterator
from pathlib import Path

import torch

from backtrail import layout
from backtrail.artifacts import file_digest, save_json
from backtrail.data.real_images import RealImageFile
from backtrail.errors import UserError
from backtrail.metrics.latent_measures import load_extractors, load_measures, of_count, real_features, save_real, way_of
from backtrail.parameters.latent import LatentEvaluation, LatentTeacher, RealImages
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.teachers.latent_images import load_first_stage


@torch_stage
def command(stage: TorchStage) -> None:
    """Statistics of real images for each way of preparing them; then encode and decode some, and measure these as samples are measured."""
    data, e = stage.section(RealImages, "data"), stage.section(LatentEvaluation, "evaluation")
    path = Path(layout.RAW) / data.file
    images, extractors = RealImageFile(path), load_extractors(e, stage.device)
    n = len(images) if data.n_reference is None else data.n_reference
    if max(n, data.n_floor, data.n_latents) > len(images):
        raise UserError(
            f"data.n_reference, n_floor and n_latents ask for {max(n, data.n_floor, data.n_latents)} images, {path} has {len(images)}"
        )
    source = {"file": data.file, "sha256": file_digest(path)}
    for way in dict.fromkeys(map(way_of, e.frechet)):
        features = real_features(extractors[way[1]], images, way, data.resolution, n, e.batch_size)
        save_real(way, extractors[way[1]], features, e.batch_size, source=source)
    first = load_first_stage(layout.FETCHED_TEACHER, stage.section(LatentTeacher, "latent"), stage.device)
    measures = load_measures(of_count(e, data.n_floor), stage.device)
    absolute, squared = [], []

    def reconstructions() -> Iterator[tuple[torch.Tensor, None]]:
        for batch in images.batches("whole", data.resolution, data.n_floor, first.batch):
            whole = torch.from_numpy(batch)
            decoded = first.decode(first.encode(whole, sampled=False))
            error = (decoded.double() - whole.double()).flatten(1) / 255
            absolute.append(error.abs().mean(dim=1)), squared.append(error.square().mean(dim=1))
            yield decoded, None

    values = measures.of(reconstructions())
    plain = {"l1": torch.cat(absolute).mean().item(), "psnr_db": -10 * torch.log10(torch.cat(squared).mean()).item()}
    save_json(layout.reference_values("first-stage"), {"values": {"reconstructions": values | plain}, "protocol": measures.protocol()})
