"""`fashion-text`: images, captions and crops as functions of (seed, split, index)."""

from pathlib import Path

import numpy as np
import pytest

from backtrail.data.captions import CAPTIONS, COLOURS, GARMENTS, GROUNDS, HELD_OUT, N_CAPTIONS, Caption
from backtrail.data.fashion_mnist import read_idx
from backtrail.data.fashion_text import centre_time_ids, choose_scenes, dress, fashion_text
from backtrail.data.pack import Rows, pack
from unit.text_world import write_originals

GARMENT_NUMBERS = np.arange(6000) % 10
# Of this house, computed once: a change of any of them is another data set.
GOLDEN_CAPTIONS = [456, 135, 59, 84, 315, 25]
GOLDEN_CROPS = [(4, 0), (0, 1), (0, 4), (2, 4), (1, 3), (2, 4)]
GOLDEN_DIGEST = "bb814e71e1c55f79cf97b1b802c164dfabe16e70cbb8064b45dcd61d1dcd7c90"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_originals(tmp_path_factory.mktemp("text") / "raw")


def whole(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*rows.chunks(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def test_each_caption_says_another_thing() -> None:
    assert len(set(CAPTIONS)) == len(CAPTIONS) == N_CAPTIONS == 480
    for number, text in enumerate(CAPTIONS):
        caption = Caption.of(number)
        assert caption.number == number
        said = GARMENTS[caption.garment], list(COLOURS)[caption.colour], list(GROUNDS)[caption.ground]
        assert all(word in text for word in said) and " a orange" not in f" {text}", text
    assert CAPTIONS[Caption(9, 0, 1, 0).number] == "a photo of a red ankle boot on a white background"
    assert CAPTIONS[Caption(1, 1, 0, 1).number] == "an orange pair of trousers in front of a black wall"


def test_eight_pairs_are_held_out_each_colour_and_garment_once() -> None:
    pairs = {(c.garment, c.colour) for c in map(Caption.of, range(N_CAPTIONS)) if c.held_out}
    assert pairs == set(HELD_OUT.items()) and len(pairs) == len({g for g, _ in pairs}) == len({c for _, c in pairs}) == 8


def test_scenes_are_those_that_they_were() -> None:
    found = choose_scenes(np.array([9, 2, 1, 1, 6, 0]), 0, "train", held_out=False)
    assert found.captions.tolist() == GOLDEN_CAPTIONS
    assert found.time_ids.tolist() == [[28, 28, top, left, 32, 32] for top, left in GOLDEN_CROPS]


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    all_of_them = choose_scenes(GARMENT_NUMBERS, 3, "train", held_out=False)
    fewer = choose_scenes(GARMENT_NUMBERS[:17], 3, "train", held_out=False)
    assert np.array_equal(all_of_them.at(slice(17)).captions, fewer.captions)
    assert np.array_equal(all_of_them.time_ids[:17], fewer.time_ids)
    for seed, split in ((4, "train"), (3, "test")):
        other = choose_scenes(GARMENT_NUMBERS, seed, split, held_out=False)
        same = (other.captions == all_of_them.captions).mean()
        assert same < 1 / 30  # by chance one in 8 x 2 x 3, or a little more


def test_training_images_lack_the_held_out_pairs_and_every_other_choice_is_uniform() -> None:
    train, test = (choose_scenes(GARMENT_NUMBERS, 0, "train", held_out) for held_out in (False, True))
    held_out = np.array([Caption.of(n).held_out for n in range(N_CAPTIONS)])
    assert not held_out[train.captions].any()
    assert abs(held_out[test.captions].mean() - 0.1) < 0.015
    for scenes in (train, test):
        for values, n in ((scenes.grounds, 2), (scenes.wordings, 3), (scenes.tops, 5), (scenes.lefts, 5)):
            assert np.abs(np.bincount(values, minlength=n) / len(values) - 1 / n).max() < 0.03
    seven = train.colours[GARMENT_NUMBERS == 4]
    assert np.bincount(seven, minlength=8)[HELD_OUT[4]] == 0 and np.delete(np.bincount(seven, minlength=8), HELD_OUT[4]).min() > 50


def test_a_pixel_lies_between_ground_and_colour() -> None:
    """Against a loop over the pixels."""
    images = np.random.default_rng(1).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    scenes = choose_scenes(np.array([0, 1, 2, 3]), 5, "train", held_out=False)
    found = dress(images, scenes)
    assert found.shape == (4, 3, 32, 32) and found.dtype == np.uint8
    for i in range(4):
        colour, ground = list(COLOURS.values())[scenes.colours[i]], list(GROUNDS.values())[scenes.grounds[i]]
        for y in range(32):
            for x in range(32):
                inside = (y + scenes.tops[i] - 4, x + scenes.lefts[i] - 4)
                grey = int(images[i][inside]) if min(inside) >= 0 and max(inside) < 28 else 0
                expected = [round(ground + (c - ground) * grey / 255) for c in colour]
                assert found[i, :, y, x].tolist() == expected


def test_both_splits_with_their_captions(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = fashion_text(raw, 0)
    train, captions = whole(images.train)
    labels = read_idx(raw / "train-labels-idx1-ubyte", 1).astype(np.int64)
    scenes = choose_scenes(labels, 0, "train", held_out=False)
    assert np.array_equal(captions, scenes.captions) and np.array_equal(captions // 48, labels)
    assert np.array_equal(train, dress(read_idx(raw / "train-images-idx3-ubyte", 3), scenes))
    test, test_captions = whole(images.test)
    assert test.shape == (80, 3, 32, 32) and {Caption.of(int(n)).held_out for n in test_captions} == {True, False}
    metadata = pack(tmp_path / "a", images, "fashion-text", 32, [])
    assert metadata["digest"] == GOLDEN_DIGEST
    monkeypatch.setattr("backtrail.data.pack.CHUNK_BYTES", 7000)  # another number of images at a time
    assert pack(tmp_path / "b", fashion_text(raw, 0), "fashion-text", 32, [])["digest"] == GOLDEN_DIGEST
    judged, _ = whole(fashion_text(raw, 0, "judge", held_out=True).train)
    assert not np.array_equal(judged, train)


def test_micro_conditioning_of_a_centred_crop() -> None:
    assert centre_time_ids(2).tolist() == [[28, 28, 2, 2, 32, 32]] * 2
