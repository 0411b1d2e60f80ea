"""Judges of images of fashion-text: what they are asked, that they learn it, and how their answers are counted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from backtrail import layout
from backtrail.data.captions import COLOURS, GARMENTS, N_CAPTIONS, Caption
from backtrail.data.fashion_text import fashion_text
from backtrail.errors import UserError
from backtrail.metrics import alignment
from backtrail.metrics.alignment import (
    accuracies,
    caption_scores,
    garments_and_colours,
    judge_extractor,
    load_judges,
    load_tower,
    save_judge_reference,
    save_tower,
    train_caption_tower,
    train_judge,
)  # fmt: skip
from backtrail.nets.towers import CaptionTower, Judge
from backtrail.parameters.text import TowerTraining
from unit.text_world import random_captions, write_originals

P = TowerTraining(width=8, steps=120, batch=64)


def real(folder: Path, **options: object) -> tuple[Tensor, Tensor]:
    chunks = [*fashion_text(folder, 0, **options).train.chunks()]
    return tuple(torch.from_numpy(np.concatenate(parts)) for parts in zip(*chunks, strict=True))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_originals(tmp_path_factory.mktemp("alignment") / "raw", 1200, 20)


@pytest.fixture(scope="module")
def judged(raw: Path) -> tuple[Tensor, Tensor]:
    return real(raw, train_split="judge", held_out=True)


@pytest.fixture(scope="module")
def judge(judged: tuple[Tensor, Tensor]) -> Judge:
    return train_judge(*judged, P)


def test_what_captions_say_by_number() -> None:
    garments, colours = garments_and_colours(torch.arange(N_CAPTIONS))
    for number in range(N_CAPTIONS):
        assert (garments[number], colours[number]) == (Caption.of(number).garment, Caption.of(number).colour)


def test_accuracies_count_each_kind_of_pair_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that reads the answer from the image's first pixels, and is wrong where it is told to be."""
    captions = torch.tensor(
        [Caption(0, 3, 0, 0).number, Caption(0, 2, 1, 1).number, Caption(5, 5, 0, 2).number, Caption(9, 6, 1, 0).number]
    )
    assert alignment.HELD_OUT[captions].tolist() == [True, False, False, True]
    garments, colours = garments_and_colours(captions)
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = garments.byte(), colours.byte()
    images[1, 0, 0, 0], images[3, 1, 0, 0] = 7, 0  # a wrong garment of a seen pair, a wrong colour of a held-out one

    class Reader:
        def logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.eye(len(GARMENTS))[x[:, 0, 0, 0].long()], torch.eye(len(COLOURS))[x[:, 1, 0, 0].long()]

    monkeypatch.setattr(alignment, "BATCH", 3)
    found = accuracies(Reader(), images, captions)
    assert found == {
        "garment_accuracy_seen": 0.5, "colour_accuracy_seen": 1.0, "pair_accuracy_seen": 0.5,
        "garment_accuracy_held_out": 1.0, "colour_accuracy_held_out": 0.5, "pair_accuracy_held_out": 0.5,
    }  # fmt: skip
    assert set(accuracies(Reader(), images[:1], captions[:1])) == {f"{n}_accuracy_held_out" for n in ("garment", "colour", "pair")}


def test_the_judge_learns_real_images_of_every_pair(judge: Judge, raw: Path, judged: tuple[Tensor, Tensor]) -> None:
    images, captions = real(raw, train_split="others", held_out=True)
    found = accuracies(judge, images, captions)
    assert min(found["colour_accuracy_seen"], found["colour_accuracy_held_out"]) > 0.75  # one in eight by chance
    assert found["garment_accuracy_seen"] > 0.4  # one in ten by chance
    asked = captions[torch.randperm(len(captions), generator=torch.Generator().manual_seed(0))]
    assert accuracies(judge, images, asked)["pair_accuracy_seen"] < 0.1
    again = train_judge(*judged, P)
    assert all(torch.equal(a, b) for a, b in zip(judge.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_caption_tower_prefers_the_caption_that_fits_whatever_its_wording(raw: Path, judged: tuple[Tensor, Tensor]) -> None:
    """A vector is the sum of those of garment, colour, ground and, shorter, wording, much as a sentence encoder has them."""
    drawn = torch.Generator().manual_seed(1)
    said = torch.tensor([(c.garment, c.colour, c.ground, c.wording) for c in map(Caption.of, range(N_CAPTIONS))])
    lengths = (1.0, 1.0, 1.0, 0.2)
    vectors = sum(length * torch.randn(10, 24, generator=drawn)[part] for length, part in zip(lengths, said.T, strict=True))
    tower = train_caption_tower(*judged, vectors, P)
    images, captions = real(raw, train_split="others", held_out=True)
    own = caption_scores(tower, images, captions, vectors)
    assert set(own) == {"caption_score_own_towers_seen", "caption_score_own_towers_held_out"}
    others = captions[torch.randperm(len(captions), generator=drawn)]
    reworded = captions // 3 * 3 + (captions + 1) % 3
    score = "caption_score_own_towers_seen"
    assert own[score] > caption_scores(tower, images, others, vectors)[score] + 0.2
    assert caption_scores(tower, images, reworded, vectors)[score] == pytest.approx(own[score], abs=0.03)
    directions, texts = tower.directions(images[:3]), torch.nn.functional.normalize(vectors[captions[:3]], dim=1)
    seen = ~alignment.HELD_OUT[captions[:3]]
    expected = (directions * texts).sum(1)[seen].mean().item()
    assert caption_scores(tower, images[:3], captions[:3], vectors)[score] == pytest.approx(expected, abs=1e-6)


def test_a_distance_in_the_judges_features_carries_their_name(
    judge: Judge, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = random_captions()
    save_tower(layout.JUDGE, judge)
    with torch.random.fork_rng(devices=[]):
        save_tower(layout.CAPTION_TOWER, CaptionTower(8, 12).eval())
    extractor = judge_extractor(layout.JUDGE)
    centred, captions = real(raw, train_split="judge", held_out=True, centred=True)
    save_judge_reference(layout.reference("garment-colour-classifier"), extractor, centred, 64)
    judges = load_judges(texts)
    same, other = judges(centred, captions, 64), judges(255 - centred, captions, 64)
    assert abs(same["fd_garment_colour_classifier"]) < 1e-6 < 0.01 < other["fd_garment_colour_classifier"]
    assert {**accuracies(judge, centred, captions), **caption_scores(judges.tower, centred, captions, texts.pooled)}.items() <= same.items()
    names = {entry["metric"] for entry in judges.protocol(5, 64)}
    assert {"fd_garment_colour_classifier", "caption_score_own_towers"} < names
    for image, shifted in zip(centred[:20], real(raw, train_split="judge", held_out=True)[0][:20], strict=True):
        assert image.int().sum() == shifted.int().sum()  # the same scene, elsewhere


def test_what_is_no_tower_is_refused(judge: Judge, judged: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    save_tower(tmp_path / "judge.safetensors", judge)
    with pytest.raises(UserError, match="holds no CaptionTower: run the stage `text-judges`"):
        load_tower(tmp_path / "judge.safetensors", CaptionTower)
    with pytest.raises(UserError, match="the judge learns from batches of 64 images, and there are only 10"):
        train_judge(judged[0][:10], judged[1][:10], P)
