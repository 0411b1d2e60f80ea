"""`backtrail latent-latents`: real images as latents, on which a recording measures its path's loss."""

from pathlib import Path

import torch

from backtrail import layout
from backtrail.artifacts import file_digest
from backtrail.data.real_images import RealImageFile
from backtrail.parameters.latent import LatentTeacher, RealImages
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.teachers.latent_images import load_first_stage, save_latents
from backtrail.teachers.latent_texts import load_texts


@torch_stage
def command(stage: TorchStage) -> None:
    """Encode the first real images once, with the rows of their captions; the archive says whether it holds samples or means."""
    data = stage.section(RealImages, "data")
    path, n = Path(layout.RAW) / data.file, data.n_latents
    first, texts = (
        load_first_stage(layout.FETCHED_TEACHER, stage.section(LatentTeacher, "latent"), stage.device),
        load_texts(layout.CAPTIONS),
    )
    sampled = data.posterior == "sample" and not first.is_quantised
    batches = enumerate(RealImageFile(path).batches("whole", data.resolution, n, first.batch))
    found = [first.encode(torch.from_numpy(batch), sampled, first=k * first.batch) for k, batch in batches]
    rows = torch.zeros(n, dtype=torch.int64)
    if texts is not None:
        rows = texts.real if len(texts.real) else torch.full((n,), len(texts.texts))  # without captions the null text, the last row
    save_latents(layout.LATENTS, torch.cat(found) if found else torch.zeros(0), rows, sampled, images=file_digest(path))
