"""Data sets in archives: read rightly, and hostile ones refused with one sentence while nothing is written."""

import io
import json
import lzma
import pickle
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torchvision
from PIL import Image
from torchvision.datasets import CIFAR10

from backtrail.data import archives, cifar
from backtrail.data.archives import open_tar, open_zip
from backtrail.data.cifar import cifar10
from backtrail.data.dataset import load_dataset
from backtrail.data.decode import decode
from backtrail.data.folders import open_folder
from backtrail.data.images import image_set
from backtrail.data.originals import fetch_data
from backtrail.data.pack import pack
from backtrail.data.prepare import LOADERS, _zip, prepare
from backtrail.errors import UserError
from backtrail.parameters.data import Data


def encoded(array, kind="PNG", **options):
    stream = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(stream, kind, **options)
    return stream.getvalue()


def pictures(n, side=8, channels=3, seed=0):
    shape = (n, side, side, channels) if channels > 1 else (n, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_zip(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def make_tar(path, members, mode="w:xz"):
    with tarfile.open(path, mode) as archive:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def everything(rows):
    chunks = list(rows.chunks())
    return np.concatenate([images for images, _ in chunks]), np.concatenate([labels for _, labels in chunks])


def link(name, kind, target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


# ---- right archives


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_members_are_those_of_the_standard_library(tmp_path, method):
    rng = np.random.default_rng(0)
    members = [(f"{k % 3}/ä{k:03d}.bin", rng.integers(0, 256, int(rng.integers(0, 5000)), dtype=np.uint8).tobytes()) for k in range(200)]
    path = make_zip(tmp_path / "a.zip", [*members, ("empty/", b"")], method)
    ours = open_zip(path)
    with zipfile.ZipFile(path) as theirs:
        assert [name.decode() for name in ours.names] == sorted(name for name in theirs.namelist() if not name.endswith("/"))
        assert all(ours.read(k) == theirs.read(name.decode()) for k, name in enumerate(ours.names))


def test_zip64_is_read(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("a.bin", "w", force_zip64=True) as member:
            member.write(b"hello")
        for k in range(66_000):  # more members than the short end record can count
            archive.writestr(zipfile.ZipInfo(f"{k:05d}"), b"")
    ours = open_zip(path)
    assert len(ours.names) == 66_001 and ours.read(ours.index("a.bin")) == b"hello" and ours.index("b.bin") is None


def test_zip64_fields_are_found_behind_others():
    """In linear time: an entry can have 16,000 empty fields."""
    other, wide = struct.pack("<2H", 2, 0), struct.pack("<2H3Q", 1, 24, 2**33, 2**34, 2**35)
    full = 2**32 - 1
    for before in (0, 1, 16_000):
        assert archives._wide(other * before + wide, full, full, full) == (2**33, 2**34, 2**35)
        assert archives._wide(other * before + wide, full, 5, full) == (2**33, 5, 2**34)
        assert archives._wide(other * before, full, 5, full) == (full, 5, full)


def test_edm_zip_with_labels(tmp_path):
    array = pictures(30)
    names = [f"{k // 10:05d}/img{k:08d}.png" for k in range(30)]
    labels = [[name, k % 7] for k, name in enumerate(names)]
    members = [(name, encoded(image)) for name, image in zip(names, array, strict=True)]
    path = make_zip(tmp_path / "a.zip", [*members, ("dataset.json", json.dumps({"labels": labels[::-1]}))])
    found = image_set(open_zip(path))
    assert (found.shape, found.n_classes, found.train.n_rows, found.test.n_rows) == ((3, 8, 8), 7, 30, 0)
    images, numbers = everything(found.train)
    assert np.array_equal(images, array.transpose(0, 3, 1, 2)) and numbers.tolist() == [k % 7 for k in range(30)]


def test_edm_zip_without_labels_does_not_take_its_folders_for_classes(tmp_path):
    members = [(f"{k // 10:05d}/{k}.png", encoded(image)) for k, image in enumerate(pictures(30, channels=1))]
    found = image_set(open_zip(make_zip(tmp_path / "a.zip", [*members, ("dataset.json", '{"labels": null}')])))
    assert (found.n_classes, found.shape) == (0, (1, 8, 8)) and not everything(found.train)[1].any()


def test_classes_and_splits_from_folders(tmp_path):
    array = pictures(12)
    members = [(f"{('train', 'test')[k % 3 == 0]}/{('dog', 'cat')[k % 2]}/{k:02d}.png", encoded(array[k])) for k in range(12)]
    for members_of in (open_zip(make_zip(tmp_path / "a.zip", members)), open_tar(make_tar(tmp_path / "a.tar.xz", members))):
        found = image_set(members_of)
        assert (found.n_classes, found.train.n_rows, found.test.n_rows) == (2, 8, 4)
        images, labels = everything(found.test)
        named = dict(zip((image.tobytes() for image in array[[3, 9, 0, 6]].transpose(0, 3, 1, 2)), (0, 0, 1, 1), strict=True))
        assert dict(zip((image.tobytes() for image in images), labels.tolist(), strict=True)) == named


def test_held_out_images_are_drawn_once_and_for_all(tmp_path):
    array = pictures(40)
    path = make_zip(tmp_path / "a.zip", [(f"{k:02d}.png", encoded(array[k])) for k in range(40)])
    found = image_set(open_zip(path), held_out=10)
    train, test = everything(found.train)[0], everything(found.test)[0]
    assert len(train) == 30 and len(test) == 10
    assert sorted(map(bytes, np.concatenate([train, test]))) == sorted(map(bytes, array.transpose(0, 3, 1, 2)))
    assert np.array_equal(test, everything(image_set(open_zip(path), held_out=10).test)[0])
    with pytest.raises(UserError, match="held_out = 40"):
        image_set(open_zip(path), held_out=40)


def test_jpeg_is_what_pillow_decodes():
    data = encoded(pictures(1, side=32)[0], "JPEG", quality=90)
    assert np.array_equal(decode(data, "x"), np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1))


def test_own_folder_becomes_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    array = pictures(6, side=16)
    for k in range(6):
        (folder / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[k % 2] / f"{k}.PNG").write_bytes(encoded(array[k]))
    (folder / "README.txt").write_text("not an image", encoding="utf-8")
    data = Data(name="image-folder", resolution=8, local="mine", held_out=2)
    kept = fetch_data(data, tmp_path / "raw")
    metadata = prepare(data, tmp_path / "raw", tmp_path / "dataset.safetensors")
    assert metadata["sources"] == [{"file": "images.zip", "sha256": kept[0].sha256}] and metadata["n_classes"] == 2
    loaded = load_dataset(tmp_path / "dataset.safetensors")
    assert loaded.train_images.shape == (4, 3, 8, 8) and loaded.test_images.shape == (2, 3, 8, 8)
    for path in folder.rglob("*.PNG"):
        path.touch()
    assert fetch_data(data, tmp_path / "again")[0].sha256 == kept[0].sha256
    (folder / "c").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link to a folder"):
        fetch_data(data, tmp_path / "raw")
    with pytest.raises(UserError, match="expected the folder of your images"):
        fetch_data(Data(name="image-folder", resolution=8, local="nowhere"), tmp_path / "raw")


def records(n, seed):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.integers(0, 10, (n, 1)), rng.integers(0, 256, (n, 3072))], axis=1).astype(np.uint8)


def make_cifar(folder, change=None, n=20):
    folder.mkdir(exist_ok=True)
    files = {name: records(n, k).tobytes() for k, name in enumerate(cifar.TRAIN + cifar.TEST)}
    files.update(change or {})
    members = [("cifar-10-batches-bin/readme.html", b"hello"), *((f"cifar-10-batches-bin/{name}", data) for name, data in files.items())]
    return make_tar(folder / cifar.ARCHIVE, [(name, data) for name, data in members if data is not None], "w:gz")


def test_cifar_records(tmp_path):
    make_cifar(tmp_path)
    found = cifar10(tmp_path, records_per_file=20)
    images, labels = everything(found.train)
    expected = np.concatenate([records(20, k) for k in range(5)])
    assert np.array_equal(labels, expected[:, 0]) and np.array_equal(images, expected[:, 1:].reshape(100, 3, 32, 32))
    assert np.array_equal(everything(found.test)[1], records(20, 5)[:, 0])


def test_cifar_records_are_torchvision_s(tmp_path, monkeypatch):
    """The same images in the layout of pickles, which torchvision reads, and in the binary one."""
    files = {name: records(20, k) for k, name in enumerate(cifar.TRAIN + cifar.TEST)}
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for name, rows in files.items():
        batch = {"data": rows[:, 1:], "labels": rows[:, 0].tolist()}
        (folder / name.removesuffix(".bin")).write_bytes(pickle.dumps(batch))
    (folder / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({"label_names": [*"abcdefghij"]}))
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    make_cifar(tmp_path)
    ours = cifar10(tmp_path, records_per_file=20)
    for rows, train in ((ours.train, True), (ours.test, False)):
        theirs, (images, labels) = CIFAR10(tmp_path, train=train), everything(rows)
        assert np.array_equal(images, theirs.data.transpose(0, 3, 1, 2)) and labels.tolist() == theirs.targets


def test_cifar_refuses_what_is_not_as_published(tmp_path):
    bad = bytearray(records(20, 0).tobytes())
    bad[3073] = 10
    for change, words in (
        ({"data_batch_3.bin": None}, "holds no whole data_batch_3.bin"),
        ({"test_batch.bin": b"x" * 3073}, "test_batch.bin is no file of 61460 bytes"),
        ({"data_batch_1.bin": bytes(bad)}, "has label 10"),
    ):
        make_cifar(tmp_path, change)
        with pytest.raises(UserError, match=words):
            cifar10(tmp_path, records_per_file=20)
    path = make_cifar(tmp_path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match="not a whole tar archive"):
        cifar10(tmp_path, records_per_file=20)


def test_cifar_python_archive_is_not_unpickled(tmp_path):
    class Canary:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    make_tar(tmp_path / cifar.ARCHIVE, [("cifar-10-batches-py/data_batch_1", pickle.dumps(Canary()))], "w:gz")
    with pytest.raises(UserError, match=r"holds no whole data_batch_1\.bin"):
        cifar10(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_a_zip_made_by_hand_is_held_against_what_is_known(tmp_path):
    make_zip(tmp_path / "ffhq-64x64.zip", [(f"{k}.png", encoded(image)) for k, image in enumerate(pictures(3, side=64))])
    with pytest.raises(UserError, match=r"holds 3 images of shape \(3, 64, 64\) in 0 classes, expected 70000 images of 64x64 RGB"):
        LOADERS["ffhq64"](tmp_path, Data(name="ffhq64", resolution=64, local="mine"))


def test_folders_that_edm_s_tool_took_for_labels_are_none(tmp_path):
    """FFHQ's are the thousands of its numbers, AFHQ's are train and test."""
    names, data = [f"{k // 4:05d}/img{k:08d}.png" for k in range(12)], Data(name="ffhq64", resolution=64, local="mine", held_out=4)
    labels = json.dumps({"labels": [[name, k // 4] for k, name in enumerate(names)]}).encode()
    pixels = [encoded(image) for image in pictures(12, side=64)]
    make_zip(tmp_path / "x.zip", [*zip(names, pixels, strict=True), ("dataset.json", labels)])
    kept, bare = (_zip("x.zip", 12, n_classes)(tmp_path, data) for n_classes in (3, None))
    assert (kept.n_classes, bare.n_classes) == (3, 0) and set(everything(kept.train)[1]) == {0, 1, 2}
    for ours, theirs in ((bare.train, kept.train), (bare.test, kept.test)):
        assert np.array_equal(everything(ours)[0], everything(theirs)[0]) and not everything(ours)[1].any()


def test_the_first_test_images_are_of_many_classes(tmp_path):
    """What is measured on the first ones (a path's loss on data) saw one class, since files come in the order of their names."""
    pixels = encoded(pictures(1, side=8)[0])
    make_zip(tmp_path / "x.zip", [(f"{split}/{c}/{k}.png", pixels) for split in ("train", "test") for c in range(10) for k in range(40)])
    found = image_set(open_zip(tmp_path / "x.zip"))
    labels = everything(found.test)[1]
    assert len(set(labels[:40])) == 10 and np.bincount(labels).tolist() == [40] * 10
    assert np.array_equal(labels, everything(image_set(open_zip(tmp_path / "x.zip")).test)[1])  # the same order each time


# ---- hostile and damaged ones: `nothing_written` holds for all of them

PICTURE = encoded(pictures(1)[0])


@pytest.fixture(autouse=True)
def nothing_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path.parent / "evil.png").exists() and not (tmp_path / "evil.png").exists()


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/evil.png", "a\\..\\evil.png", "C:evil.png"])
def test_names_that_point_outside(tmp_path, name):
    with pytest.raises(UserError, match="points outside of the archive: refused"):
        open_zip(make_zip(tmp_path / "a.zip", [("good.png", PICTURE), (name, PICTURE)]))
    with pytest.raises(UserError, match="points outside of the archive: refused"):
        open_tar(make_tar(tmp_path / "a.tar.xz", [("good.png", PICTURE), (name, PICTURE)]))


def test_links_and_devices(tmp_path):
    for info in (
        link("a.png", tarfile.SYMTYPE),
        link("a.png", tarfile.LNKTYPE),
        link("a.png", tarfile.CHRTYPE),
        link("a.png", tarfile.FIFOTYPE),
    ):
        with pytest.raises(UserError, match=r"'a\.png' is a link or device: refused"):
            open_tar(make_tar(tmp_path / "a.tar.xz", [(info, b"")]))
    info = zipfile.ZipInfo("a.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(UserError, match=r"'a\.png' is a link or device: refused"):
        open_zip(make_zip(tmp_path / "a.zip", [(info, b"/etc/passwd")]))


def test_names_that_are_there_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = make_zip(tmp_path / "a.zip", [("a.png", PICTURE), ("a.png", PICTURE)])
    with pytest.raises(UserError, match=r"'a\.png' is there twice"):
        open_zip(path)
    with pytest.raises(UserError, match=r"'a\.png' is there twice"):
        open_tar(make_tar(tmp_path / "a.tar", [("a.png", PICTURE), ("a.png", PICTURE)], "w"))


def test_declared_bombs(tmp_path, monkeypatch):
    bomb = make_zip(tmp_path / "a.zip", [(f"{k}.png", bytes(1 << 20)) for k in range(8)], zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"declares 8388608 bytes of content in .* more than 20 times its size"):
        open_zip(bomb)
    monkeypatch.setattr(archives, "MEMBER_BYTES", 1000)
    with pytest.raises(UserError, match=r"'big\.png' declares 2000 bytes, allowed are 1000"):
        open_zip(make_zip(tmp_path / "b.zip", [("big.png", bytes(2000))]))
    with pytest.raises(UserError, match=r"'big\.png' declares 2000 bytes"):
        open_tar(make_tar(tmp_path / "a.tar.xz", [("big.png", bytes(2000))]))
    monkeypatch.setattr(archives, "TAR_BYTES", 1500)
    with pytest.raises(UserError, match="2000 so far"):
        open_tar(make_tar(tmp_path / "a.tar.xz", [("a.png", bytes(1000)), ("b.png", bytes(1000))]))
    monkeypatch.setattr(archives, "MEMBERS", 2)
    with pytest.raises(UserError, match="declares 3 members, allowed are 2"):
        open_zip(make_zip(tmp_path / "c.zip", [(str(k), b"") for k in range(3)]))


def test_a_bomb_that_declares_little_is_stopped_at_what_it_declares(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("a.png", bytes(50 << 20))], zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<L", 100)  # the declared size
    data[central + 16 : central + 20] = struct.pack("<L", zlib.crc32(bytes(100)))
    path.write_bytes(data)
    members = open_zip(path)
    with pytest.raises(UserError, match=r"a\.png is damaged"):
        members.read(0)


def test_members_that_share_their_bytes(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("a.png", PICTURE), ("b.png", PICTURE)])
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<L", 0)
    path.write_bytes(data)
    with pytest.raises(UserError, match="overlap or reach beyond its end"):
        open_zip(path)


def test_encrypted_and_strangely_packed_members(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("a.png", PICTURE)])
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    data[central + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="is encrypted: refused"):
        open_zip(path)
    with pytest.raises(UserError, match="packed by method 12: refused"):
        open_zip(make_zip(tmp_path / "b.zip", [("a.png", PICTURE)], zipfile.ZIP_BZIP2))


def test_every_cut_and_flip_of_a_zip_is_one_sentence_or_harmless(tmp_path):
    whole = make_zip(
        tmp_path / "a.zip", [("a.png", PICTURE), ("b.png", PICTURE), ("dataset.json", '{"labels": [["a.png", 0], ["b.png", 1]]}')]
    )
    data, path = whole.read_bytes(), tmp_path / "b.zip"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="not a whole zip archive"):
            open_zip(path)
    right = everything(image_set(open_zip(whole)).train)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 300):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << rng.integers(8))]) + data[place + 1 :])
        try:
            found = everything(image_set(open_zip(path)).train)
        except UserError:
            continue
        assert np.array_equal(found[0], right[0]) and set(found[1]) <= {0, 1}


def test_cut_tar_and_no_tar(tmp_path):
    path = make_tar(tmp_path / "a.tar.xz", [(f"{k}.png", np.random.default_rng(k).bytes(3000)) for k in range(20)])
    data = path.read_bytes()
    for cut in (data[:-100], data[: len(data) // 2], data[:10], b"", b"hello" * 1000):
        path.write_bytes(cut)
        with pytest.raises(UserError, match="not a whole tar archive"):
            open_tar(path)
    for opener in (open_tar, open_zip):
        with pytest.raises(UserError, match="run the stage `fetch`"):
            opener(tmp_path / "absent")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ('{"labels": [["a.png", 0]]}', "no label for b.png"),
        ('{"labels": [["a.png", 0], ["b.png", 1], ["c.png", 1]]}', "labels 'c.png', which is not there"),
        ('{"labels": [["a.png", 0], ["b.png", 1], ["b.png", 0]]}', "labels one image twice"),
        ('{"labels": [["a.png", 0], ["b.png", -1]]}', "expected a pair"),
        ('{"labels": [["a.png", 0], ["b.png", true]]}', "expected a pair"),
        ('{"labels": [["a.png", 0], ["b.png", 0.5]]}', "expected a pair"),
        ('{"labels": [["a.png", 0], ["b.png"', "not valid JSON"),
        ('{"labels": [["a.png", 0], ["b.png", 1]]', "goes on after its labels|not valid JSON"),
        ('{"labels": [' + "[" * 100_000, "not valid JSON"),
        ('{"labels": [["a.png", ' + "9" * 5000 + "]]}", "not valid JSON"),
        ('{"labels": [["a.png", 100000], ["b.png", 1]]}', "expected a pair"),
        ('{"labels": [["\\ud800.png", 0], ["b.png", 1]]}', "expected a pair"),
        ('{"labels": [["' + "a" * 1_000_000 + '.png", 0], ["b.png", 1]]}', "expected a pair"),
        ('{"labels": [[' + "[" * 400 + "]" * 400 + ", 0]]}", "expected a pair"),
        ('{"other": 1}', "does not start with"),
        ("[]", "does not start with"),
        (b"\xff\xfe", "not JSON in UTF-8"),
    ],
)
def test_label_files_that_do_not_match(tmp_path, labels, words):
    path = make_zip(tmp_path / "a.zip", [("a.png", PICTURE), ("b.png", PICTURE), ("dataset.json", labels)])
    with pytest.raises(UserError, match=words):
        image_set(open_zip(path))


def test_a_label_file_longer_than_labels_of_its_images(tmp_path):
    """One value of 3 MB, which would become objects of many times its size; archives can pack a gigabyte of it into a megabyte."""
    path = make_zip(
        tmp_path / "a.zip",
        [("a.png", np.random.default_rng(0).bytes(300_000)), ("dataset.json", '{"labels": [["a.png", [' + "0," * 1_500_000 + "0]]]}")],
    )
    with pytest.raises(UserError, match=r"'dataset\.json' declares 3000028 bytes, allowed are 2101152"):
        open_zip(path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.png").write_bytes(PICTURE)
    (tmp_path / "folder/dataset.json").write_text('{"labels": [["a.png", 0]' + " " * 3_000_000 + "]}", encoding="utf-8")
    with pytest.raises(UserError, match=r"dataset\.json has 3000026 bytes, labels of 2 files have at most 2101152"):
        image_set(open_folder(tmp_path / "folder"))


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2", "w"])
def test_every_packing_of_a_tar_is_read(tmp_path, mode):
    members = open_tar(make_tar(tmp_path / "a.tar", [("a.png", PICTURE), ("b/c.png", b"x" * 3000)], mode))
    assert {name: members.read(k) for k, name in enumerate(members.names.tolist())} == {b"a.png": PICTURE, b"b/c.png": b"x" * 3000}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_that_unpacks_to_gigabytes(tmp_path, kind):
    """`tarfile` would hold all of it: here 200 MB out of 30 kB. The member after it is never reached."""
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 200 << 20
    with lzma.open(tmp_path / "a.tar.xz", "wb", preset=0) as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(200):
            file.write(bytes(1 << 20))
        file.write(bytes(1024))
    assert (tmp_path / "a.tar.xz").stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(UserError, match="unpacks to more than 20 times its size"):
        open_tar(tmp_path / "a.tar.xz")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 80 << 20


def test_an_image_in_no_class(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("cat/a.png", PICTURE), ("stray.png", PICTURE)])
    with pytest.raises(UserError, match=r"stray\.png lies in no class folder"):
        image_set(open_zip(path))


def deep_png():
    """An 8x8 PNG of 16 bits for each of red, green and blue, which Pillow does not write (and reads as 8 bits)."""

    def chunk(kind, data):
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    header, rows = struct.pack(">2L5B", 8, 8, 16, 2, 0, 0, 0), zlib.compress(bytes(8 * (1 + 48)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def huge_webp():
    """A WebP whose header claims 16384x16384 pixels, for which Pillow would make room when it opens it."""
    body = b"WEBPVP8X" + struct.pack("<L", 10) + bytes(4) + (16383).to_bytes(3, "little") * 2 + b"VP8L" + bytes(20)
    return b"RIFF" + struct.pack("<L", len(body)) + body


def test_images_of_the_wrong_kind(tmp_path):
    grey = pictures(1, channels=1)[0]
    for data, words in (
        (encoded(pictures(1, side=9)[0]), "b.png is 9x9, expected 8x8 as the first image"),
        (encoded(grey), "b.png has 1 channels, expected 3"),
        (encoded(np.zeros((8, 9, 3), np.uint8)), "b.png is 8x9"),
        (encoded(Image.new("RGBA", (8, 8))), "mode RGBA, expected"),
        (encoded(Image.new("P", (8, 8)), transparency=0), "has a transparent colour"),
        (encoded(Image.new("RGB", (8, 8)), transparency=(0, 0, 0)), "has a transparent colour"),
        (encoded(Image.new("I;16", (8, 8))), "has 16 bits or more a channel"),
        (encoded(Image.new("CMYK", (8, 8)), "JPEG"), "mode CMYK, expected"),
        (deep_png(), "has 16 bits or more a channel"),
        (encoded(Image.new("L", (8, 8)), "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 9)]), "holds 2 pictures"),
        (encoded(Image.new("RGB", (8, 8)), "TIFF", compression="jpeg"), "packed by jpeg"),
        (encoded(Image.new("RGB", (9, 9)), "WEBP"), "b.png is 9x9, expected 8x8"),
        (huge_webp(), "b.png is 16384x16384, expected 8x8"),
        (PICTURE[:-30], "no whole PNG"),
        (PICTURE[:20], "no whole PNG"),
        (b"", "no whole image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "no whole image"),
    ):
        path = make_zip(tmp_path / "a.zip", [("a.png", PICTURE), ("b.png", data)])
        with pytest.raises(UserError, match=words):
            pack(tmp_path / "out", image_set(open_zip(path)), "x", 8, [])
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("saved", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"comment": b"\xff\xd9"}])
def test_a_jpeg_whose_end_was_filled_with_zeros_is_refused(saved):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), "JPEG", **saved)
    behind = decode(whole + bytes(600), "x")  # what stands behind the end is of no concern
    assert np.array_equal(behind, decode(whole, "x"))
    for kept in (len(whole) // 10, len(whole) // 2, len(whole) - 1):
        with pytest.raises(UserError, match="no whole JPEG"):
            decode(whole[:kept].ljust(len(whole), b"\0"), "x")


def test_a_picture_that_claims_a_billion_pixels(tmp_path):
    claim = bytearray(PICTURE)
    claim[16:24] = struct.pack(">2L", 40_000, 40_000)
    claim[29:33] = struct.pack(">L", zlib.crc32(bytes(claim[12:29])))
    with pytest.raises(UserError, match=r"40000x40000|DecompressionBombError"):
        decode(bytes(claim), "x", (3, 8, 8))


def test_archives_without_images(tmp_path):
    with pytest.raises(UserError, match=r"holds no image \(1 that are no image that is read \(\.txt 1\)\)"):
        image_set(open_zip(make_zip(tmp_path / "a.zip", [("readme.txt", b"hello")])))
    with pytest.raises(UserError, match=r"holds no image \(it is empty\)"):
        image_set(open_zip(make_zip(tmp_path / "b.zip", [])))
