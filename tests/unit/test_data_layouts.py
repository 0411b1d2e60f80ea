"""Images as people have them: the same reading of a folder and of an archive of it, and a word about everything that is left out."""

import contextlib
import io
import json
import logging
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from backtrail.data.archives import open_zip
from backtrail.data.decode import decode, decode_upright
from backtrail.data.folders import open_folder
from backtrail.data.images import image_set
from backtrail.data.originals import pack_folder
from backtrail.data.understood import understood
from backtrail.errors import UserError
from backtrail.parameters.data import Data

ARRAY = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def encoded(kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(ARRAY).save(stream, kind, **options)
    return stream.getvalue()


PNG = encoded()


def lay(tmp_path, files):
    """The files as a folder and as a zip."""
    folder = tmp_path / "mine"
    tmp_path.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
            archive.writestr(name, data)
    return folder, tmp_path / "mine.zip"


def summary(place, held_out=0):
    name = "image-folder" if place.is_dir() else "image-zip"
    with contextlib.chdir(place.parent):
        return understood(Data(name=name, resolution=8, local=place.name, held_out=held_out))


def both(tmp_path, files):
    folder, archive = lay(tmp_path, files)
    pack_folder(folder, tmp_path / "packed.zip")
    found = [summary(place) for place in (folder, archive)]
    first, second = ((s.n_images, s.classes, s.splits, s.left_out) for s in found)
    assert first == second
    for members in (open_folder(folder), open_zip(archive), open_zip(tmp_path / "packed.zip")):  # the stages read what was understood
        images = image_set(members)
        assert (images.train.n_rows, images.train.n_rows + images.test.n_rows) == (found[0].splits["train"], found[0].n_images)
        assert images.n_classes == len(found[0].classes)
    return found[0]


@pytest.mark.parametrize(
    "aside", [".ipynb_checkpoints", ".thumbnails", "@eaDir", "__MACOSX", "Thumbnails", "thumbs", "_thumbs", "thumbnail"]
)
def test_hidden_and_thumbnail_folders_are_passed_over_and_named(tmp_path, aside):
    found = both(tmp_path, {"cat/0.png": PNG, "dog/1.png": PNG, f"cat/{aside}/0.png": PNG, f"{aside}/1.png": PNG, "cat/._0.png": PNG})
    assert found.classes == {"cat": 1, "dog": 1}
    ((reason, n),) = found.left_out.items()
    assert n == 3 and f"{aside} 2" in reason and "._0.png 1" in reason


@pytest.mark.parametrize(
    ("tops", "splits"),
    [
        (("train", "val"), {"train": 2, "test": 2}),
        (("Train", "TEST"), {"train": 2, "test": 2}),
        (("training", "Validation"), {"train": 2, "test": 2}),
        (("train", "val", "test"), {"train": 2, "test": 2}),
        (("train",), {"train": 2, "test (held out)": 0}),
        (("set/train", "set/val"), {"train": 2, "test": 2}),
        (("train2017", "val2017"), {"train": 2, "test": 2}),
        (("Training Set", "Test Set"), {"train": 2, "test": 2}),
        (("trainset", "testSet"), {"train": 2, "test": 2}),
        (("mine/train_images", "mine/val_images", "mine/TEST-data_64x64"), {"train": 2, "test": 2}),
    ],
)
def test_splits_are_never_classes(tmp_path, tops, splits):
    found = both(tmp_path, {f"{top}/{c}/{top.rsplit('/', 1)[-1]}.png": PNG for top in tops for c in ("cat", "dog")})
    assert found.splits == splits and list(found.classes) == ["cat", "dog"]
    assert sum(found.left_out.values()) == 2 * (len(tops) == 3)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train/cat/0.png", "car/1.png"), r"train are splits, and car/1\.png lies in none"),
        (("test/cat/0.png", "val/cat/1.png"), r"test, val are splits, and test/cat/0\.png leaves nothing to train on"),
        (("cat/train/0.png", "cat/test/1.png", "dog/train/2.png", "dog/test/3.png"), r"test, train \(cat/test/1\.png\) say splits below"),
        (("mine/train/0.png", "mine/test/1.png", "extra/x.png"), r"test, train \(mine/test/1\.png\) say splits below the top"),
        (("mine/train/0.png", "mine/test/1.png", "x.png"), r"test, train \(mine/test/1\.png\) say splits below the top"),
        (("cat/good/Test Set/0.png", "dog/good/1.png"), r"Test Set \(cat/good/Test Set/0\.png\) say splits below the top"),
        (("train/train/0.png", "test/test/1.png"), r"test, train \(test/test/1\.png\) say splits below the top"),
        (("trainA/0.png", "trainB/1.png", "testA/2.png"), r"testA, trainA, trainB say splits together with other words: sort all images"),
        (("cat/0.png", "my test/1.png", "my val/2.png"), r"my test, my val say splits together with other words"),
    ],
)
def test_folders_that_can_be_read_in_two_ways_are_refused(tmp_path, names, words):
    for place in lay(tmp_path, dict.fromkeys(names, PNG)):
        with pytest.raises(UserError, match=words):
            summary(place)


@pytest.mark.parametrize("name", ["train_station", "Test tube", "contest", "trains", "prétest"])
def test_a_class_whose_name_holds_a_split_among_other_words_stays_one(tmp_path, name):
    assert both(tmp_path, {f"{name}/0.png": PNG, "car/1.png": PNG}).classes == {"car": 1, name: 1}


@pytest.mark.parametrize("outer", ["", "mine/", "a/b/"])
def test_an_outer_folder_hides_neither_labels_nor_classes_nor_splits(tmp_path, outer):
    labels = json.dumps({"labels": [["x/0.png", 2], ["x/1.png", 0]]}).encode()
    assert both(tmp_path / "1", {f"{outer}x/0.png": PNG, f"{outer}x/1.png": PNG, f"{outer}dataset.json": labels}).classes == {
        "0": 1,
        "1": 0,
        "2": 1,
    }
    assert both(tmp_path / "2", {f"{outer}cat/0.png": PNG, f"{outer}dog/1.png": PNG}).classes == {"cat": 1, "dog": 1}
    assert both(tmp_path / "3", {f"{outer}train/cat/0.png": PNG, f"{outer}val/dog/1.png": PNG}).splits == {"train": 1, "test": 1}


def test_a_label_file_below_the_top_is_refused(tmp_path):
    for place in lay(tmp_path, {"a/0.png": PNG, "b/1.png": PNG, "a/dataset.json": b'{"labels": null}'}):
        with pytest.raises(UserError, match=r"a/dataset\.json is not at the top"):
            summary(place)


def test_endings_that_are_not_read_are_counted_and_named_and_content_decides(tmp_path):
    files = {f"{k}.{kind}": PNG for k, kind in enumerate(("png", "JPG", "jfif", "bin", "heic"))}
    found = both(tmp_path, {**files, "5.heic": b"not read", "6.avif": b"", "notes.txt": b"hello", "LICENCE": b""})
    assert found.n_images == 5 and sum(found.left_out.values()) == 4
    (reason,) = found.left_out
    assert all(word in reason for word in (".heic 1", ".avif 1", ".txt 1", "no ending 1"))


def test_what_is_left_out_is_said(tmp_path, caplog):
    folder, archive = lay(tmp_path, {"0.png": PNG, "notes.txt": b"hello"})
    for run in (lambda: pack_folder(folder, tmp_path / "a.zip"), lambda: image_set(open_zip(archive))):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            run()
        assert "left out: 1 that are no image that is read (.txt 1)" in caplog.text


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_formats_without_loss_arrive_bit_for_bit(kind):
    assert np.array_equal(decode(encoded(kind, **({"lossless": True} if kind == "WEBP" else {})), "x"), ARRAY.transpose(2, 0, 1))


@pytest.mark.parametrize("packing", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_packed_tiffs_arrive_bit_for_bit(packing):
    assert np.array_equal(decode(encoded("TIFF", compression=packing), "x"), ARRAY.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_a_palette_becomes_the_colours_that_it_names(kind):
    image, stream = Image.fromarray(ARRAY).quantize(16), io.BytesIO()
    image.save(stream, kind)
    assert np.array_equal(decode(stream.getvalue(), "x"), np.asarray(image.convert("RGB")).transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_and_said(tmp_path, caplog, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright: turn it a quarter clockwise
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    plain, turned = encoded(kind, **options), encoded(kind, exif=exif, **options)
    found = decode_upright(turned, "x")
    assert found.turned and not decode_upright(plain, "x").turned
    assert np.array_equal(found.pixels, np.rot90(decode(plain, "x"), -1, (1, 2)))
    _, archive = lay(tmp_path, {"0.png": turned, "1.png": plain})
    assert summary(archive).lines()[0] == "mine.zip: 2 images of 8x8 RGB, 1 turned as their EXIF orientation says"
    with caplog.at_level(logging.WARNING):
        assert sum(len(images) for images, _ in image_set(open_zip(archive)).train.chunks()) == 2
    assert "1 images are turned as their EXIF orientation says (EDM's own tool ignores it)" in caplog.text


def test_the_summary_has_a_line_for_each_thing(tmp_path):
    folder, _ = lay(tmp_path, {"cat/0.png": PNG, "cat/1.png": PNG, "dog/2.png": PNG, "x.txt": b""})
    assert summary(folder, 1).lines() == [
        f"{folder.name}: 3 images of 8x8 RGB",
        "classes 2: cat 2, dog 1",
        "splits train 2, test (held out) 1",
        "left out 1 that are no image that is read (.txt 1)",
    ]
    with pytest.raises(UserError, match="held_out = 3"):
        summary(folder, 3)
    assert understood(Data(name="fashion-mnist", resolution=32, local="mine")) is None


def saved(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


SIXTEEN = struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)  # the header of a PNG of 16-bit colours, which Pillow does not write
SIXTEEN = PNG[:16] + SIXTEEN + struct.pack(">I", zlib.crc32(b"IHDR" + SIXTEEN)) + PNG[33:]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved(Image.new("RGB", (9, 8))), "is 8x9, expected 8x8 as the first image"),
        (saved(Image.new("RGB", (9, 9)), "WEBP"), "is 9x9, expected 8x8 as the first image"),
        (saved(Image.new("L", (8, 8))), "has 1 channels, expected 3"),
        (saved(Image.new("RGBA", (8, 8))), "has mode RGBA"),
        (saved(Image.new("RGB", (8, 8)), transparency=(0, 0, 0)), "has a transparent colour"),
        (saved(Image.new("CMYK", (8, 8)), "JPEG"), "has mode CMYK"),
        (saved(Image.new("I;16", (8, 8)), "TIFF"), "has 16 bits"),
        (saved(Image.new("RGB", (8, 8)), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]), "holds 2 pictures"),
        (SIXTEEN, "has 16 bits"),
        (PNG[:20], "is no whole PNG"),
        (b"", "is no whole image"),
        (b"hello", "is no whole image"),
    ],
)
def test_a_later_image_is_refused_by_its_header_as_its_stage_would(tmp_path, data, words):
    """The one sentence, of a folder and of a zip; the first image is another, and so are ninety-eight behind it."""
    for place in lay(tmp_path, {f"{k:02d}.png": data if k == 50 else PNG for k in range(100)}):
        with pytest.raises(UserError, match=words) as early:
            summary(place)
        members = open_folder(place) if place.is_dir() else open_zip(place)
        with pytest.raises(UserError) as late:
            for _ in image_set(members).train.chunks():
                pass
        assert str(late.value).replace(str(place), place.name) == str(early.value) and "50.png" in str(early.value)


def test_of_very_many_images_evenly_spread_headers_are_read_and_their_number_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("backtrail.data.understood.HEADERS", 3)
    folder, _ = lay(tmp_path, {f"{k:02d}.png": PNG if k in (0, 5, 10) else b"" for k in range(11)})
    assert summary(folder).lines()[0] == "mine: 11 images of 8x8 RGB by the headers of 3 of them"


def test_a_header_is_read_without_its_pixels(tmp_path):
    """Those of the first image are; a file that is too large is refused before it is opened."""
    folder, _ = lay(tmp_path, {"0.png": PNG, "1.png": PNG[:-60]})
    assert summary(folder).n_images == 2
    with open(folder / "1.png", "r+b") as file:
        file.truncate((1 << 26) + 1)
    with pytest.raises(UserError, match="allowed are 67108864"):
        summary(folder)


def test_a_folder_that_no_archive_can_keep_is_refused(tmp_path):
    folder, _ = lay(tmp_path, {"0.png": PNG})
    for name, words in (("12:30.png", "points outside"), (b"\xff.png", "not a name in UTF-8")):
        path = folder / name if isinstance(name, str) else folder / name.decode("utf-8", "surrogateescape")
        path.write_bytes(PNG)
        with pytest.raises(UserError, match=words):
            open_folder(folder)
        path.unlink()
    (folder / "gone.png").symlink_to("nowhere")
    with pytest.raises(UserError, match="is a link to nothing"):
        open_folder(folder)


# ---- archives that lie


def names_of(n):
    return {f"{k % 2}/{k}.png": PNG for k in range(n)}


def test_an_end_that_declares_fewer_members_is_refused(tmp_path):
    """Three of eight, with the directory's size left, made to fit, and made to fit with its start moved to the last three."""
    _, archive = lay(tmp_path, names_of(8))
    data = archive.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<2L", data, end + 12)
    entry = size // 8
    for less, moved in ((0, 0), (5 * entry, 0), (5 * entry, 5 * entry)):
        lie = struct.pack("<2H2L", 3, 3, size - less, start + moved)
        archive.write_bytes(data[: end + 8] + lie + data[end + 20 :])
        with pytest.raises(UserError, match=r"holds more members than the 3|between its directory and its end|belong to no member"):
            open_zip(archive)


@pytest.mark.parametrize("values", [(2**64 - 1,) * 3, (2**63, 10, 0), (10, 2**64 - 40, 0), (10, 10, 2**64 - 1), (2**40, 10, 0)])
def test_sizes_that_wrap_are_refused(tmp_path, values):
    path = tmp_path / "a.zip"
    extra = struct.pack("<2H3Q", 1, 24, *values)
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, 10, 10, 5, 0) + b"a.png" + bytes(10)
    full = 2**32 - 1
    central = (
        struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, 0, full, full, 5, len(extra), 0, 0, 0, 0, full) + b"a.png" + extra
    )
    path.write_bytes(local + central + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0))
    with pytest.raises(UserError, match="beyond its end: refused"):
        open_zip(path)


def test_a_name_of_a_megabyte_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a" * 60_000 + ".png", PNG)
    with pytest.raises(UserError, match="is no name that a file can have"):
        open_zip(tmp_path / "a.zip")
