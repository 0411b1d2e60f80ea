"""`backtrail latent-samples`: images of a published latent teacher or of a student of it, decoded and measured."""

from collections.abc import Iterator

import torch
from torch import Tensor

from backtrail import layout
from backtrail.artifacts import save_json
from backtrail.metrics.latent_measures import load_measures
from backtrail.nets.build import load_denoiser
from backtrail.parameters.latent import LatentEvaluation, LatentTeacher
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.sampling.sample import CHUNK
from backtrail.stages.text_samples import SHOWN, ways_of
from backtrail.teachers.latent_images import load_first_stage
from backtrail.teachers.latent_texts import load_texts, telling
from backtrail.tensors import save_tensors
from backtrail.training.progress import progress


@torch_stage
def command(stage: TorchStage) -> None:
    """Sample a model by each of its samplers under the captions of evaluation, decode and measure; keeps the first images of each."""
    e, of = stage.section(LatentEvaluation, "evaluation"), stage.of_method if stage.declared.item else (layout.TEACHER_NAME, None)
    prompts = load_texts(layout.CAPTIONS)
    model = telling(stage.place, prompts)(load_denoiser(layout.student(*of) if of[1] is not None else layout.TEACHER))
    ways, trained = ways_of(stage, model, of)
    first = load_first_stage(layout.FETCHED_TEACHER, stage.section(LatentTeacher, "latent"), stage.device)
    measures = load_measures(e, stage.device, layout.RAW)
    images, values, n_shown = {}, {}, min(SHOWN, e.n_images)
    with progress(len(ways) * e.n_images, unit="image") as tick:
        for done, (name, way) in enumerate(ways):
            kept: list[Tensor] = []

            def chunks(way=way, kept=kept) -> Iterator[tuple[Tensor, list[str] | None]]:
                for start in range(0, e.n_images, CHUNK):
                    indices = range(start, min(start + CHUNK, e.n_images))
                    drawn = first.images(model, way, indices)
                    kept.extend(drawn[: max(n_shown - start, 0)])
                    yield drawn, None if prompts is None else [prompts.caption(i) for i in indices]

            found = measures.of(chunks(), lambda n, done=done: tick(done * e.n_images + n))
            values.setdefault(name, {})[f"nfe{way.nfe}"] = found
            images[f"{name}/nfe{way.nfe}"] = torch.stack(kept)
    captions = [] if prompts is None else [prompts.caption(i) for i in range(n_shown)]
    about = {"method": of[0], "trained_nfe": trained} | ({} if of[1] is None else {"seed": of[1]})
    save_tensors(layout.samples(*of), images, about | {"first_seed": 0, "n_images": n_shown, "captions": captions})
    save_json(layout.metrics(*of), about | {"values": values, "protocol": measures.protocol()})
