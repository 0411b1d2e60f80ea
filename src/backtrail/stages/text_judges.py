"""`backtrail text-judges`: what images of text-to-image models are judged by."""

import numpy as np
import torch
from torch import Tensor

from backtrail import layout
from backtrail.artifacts import save_json
from backtrail.data.caption_archive import CaptionArchive, load_captions
from backtrail.data.captions import CAPTIONS
from backtrail.data.fashion_text import fashion_text
from backtrail.data.pack import Rows
from backtrail.data.text_teacher import fetched, take_over
from backtrail.errors import UserError
from backtrail.metrics.alignment import (
    FEATURES,
    judge_extractor,
    load_judges,
    load_tower,
    save_judge_reference,
    save_tower,
    train_caption_tower,
    train_judge,
)
from backtrail.nets.towers import CaptionTower, Judge
from backtrail.parameters.text import PublishedPart, TextEvaluation, TextWorld, TowerTraining, either_kind
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.training.progress import progress


@torch_stage
def command(stage: TorchStage) -> None:
    """Train the judge of garments and colours and the tower of captions on real images of every pair, or take over published ones; measure
    real images by them."""
    seed, e, texts = stage.value(TextWorld, "text.seed"), stage.section(TextEvaluation, "evaluation"), load_captions(layout.CAPTIONS)
    p, q = (stage.section(either_kind(key, TowerTraining, PublishedPart), key) for key in ("judge", "caption_tower"))
    if isinstance(p, TowerTraining) and isinstance(q, TowerTraining):
        train(p, q, texts, seed)
    else:
        check_published(texts)
        take_over(layout.JUDGE)
        take_over(layout.CAPTION_TOWER)
    centred = fashion_text(layout.RAW, seed, "judge", held_out=True, centred=True)
    reference, _ = gathered(centred.train, e.n_reference)
    save_judge_reference(layout.reference(FEATURES), judge_extractor(layout.JUDGE), reference, e.batch_size)
    judges = load_judges(texts)
    images, captions = gathered(centred.test, e.n_samples)
    values = {"real": judges(images, captions, e.batch_size), "real_under_others_captions": judges(images, captions.roll(1), e.batch_size)}
    save_json(layout.reference_values(FEATURES), {"values": values, "protocol": judges.protocol(len(images), e.batch_size)})


def train(p: TowerTraining, q: TowerTraining, texts: CaptionArchive, seed: int) -> None:
    """Train both nets, one after the other, and write them."""
    images, captions = gathered(fashion_text(layout.RAW, seed, "judge", held_out=True).train)
    with progress(p.steps + q.steps) as tick:
        save_tower(layout.JUDGE, train_judge(images, captions, p, lambda done, loss: tick(done)))
        vectors = texts.pooled[texts.rows(CAPTIONS)]
        save_tower(layout.CAPTION_TOWER, train_caption_tower(images, captions, vectors, q, lambda done, loss: tick(p.steps + done)))


def check_published(texts: CaptionArchive) -> None:
    """Raises UserError unless the fetched nets are judges, for texts of the encoder's width."""
    load_tower(fetched(layout.JUDGE), Judge)
    tower, found = load_tower(fetched(layout.CAPTION_TOWER), CaptionTower), texts.pooled.shape[1]
    if (wanted := tower.architecture["text_width"]) != found:
        raise UserError(f"{fetched(layout.CAPTION_TOWER)} is for texts of width {wanted}, and the captions were encoded with {found}")


def gathered(rows: Rows, n: int | None = None) -> tuple[Tensor, Tensor]:
    """The first n images, uint8 [n, 3, 32, 32], and their captions' numbers, int64 [n]; all without n."""
    images, captions = (np.concatenate(parts) for parts in zip(*rows.chunks(), strict=True))
    return torch.from_numpy(images[:n]), torch.from_numpy(captions[:n])
