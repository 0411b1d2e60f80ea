"""The built-in data set: idx files, pooling, sigma_data, the file that the stages read."""

import gzip
import hashlib
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from torchvision.datasets.mnist import read_image_file, read_label_file

from backtrail.data import dataset, sources
from backtrail.data.dataset import batch, load_dataset, to_float, to_uint8
from backtrail.data.fashion_mnist import fashion_mnist, read_idx
from backtrail.data.pack import Images, Rows, pack, pool
from backtrail.data.prepare import LOADERS
from backtrail.data.registry import File
from backtrail.data.sources import SOURCES
from backtrail.data.verification import Refused, already_kept, keep
from backtrail.errors import UserError
from backtrail.parameters.base import validate
from backtrail.parameters.data import Data, DataSet
from backtrail.randomness import Draw
from backtrail.tensors import load_tensors


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def raw(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "raw"
    folder.mkdir()
    for name, n in (("train", 300), ("t10k", 40)):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(rng.integers(0, 10, n, dtype=np.uint8)))
    return folder


def test_idx_is_read_strictly(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "a"
    path.write_bytes(idx(array))
    assert np.array_equal(read_idx(path, 3), array)
    whole = path.read_bytes()
    for data, words in (
        (whole[:-1], "holds 39 bytes"),
        (whole + b"\0", "holds 41 bytes"),
        (whole[:7], "no idx file of 3 dimensions"),
        (b"", "no idx file of 3 dimensions"),
        (bytes([0, 0, 9]) + whole[3:], "starts with 00000903, expected 00000803"),
        (whole[:4] + b"\xff" * 12 + whole[16:], "asks for"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=words):
            read_idx(path, 3)
    with pytest.raises(UserError, match="run the stage `fetch`"):
        read_idx(tmp_path / "absent", 3)


def test_torchvision_reads_the_same(raw):
    """Its reader checks by assertions and takes four seconds to load, so it is what ours is held against."""
    for part, theirs in (("images-idx3", read_image_file), ("labels-idx1", read_label_file)):
        path = raw / f"train-{part}-ubyte"
        expected = theirs(str(path)).numpy()
        assert np.array_equal(read_idx(path, expected.ndim), expected)


def test_images_get_two_pixels_of_black_around_them(raw):
    images = fashion_mnist(raw)
    padded = np.concatenate([chunk for chunk, _ in images.train.chunks()])
    assert padded.shape == (300, 1, 32, 32)
    assert np.array_equal(padded[:, 0, 2:30, 2:30], read_idx(raw / "train-images-idx3-ubyte", 3))
    assert padded.sum() == read_idx(raw / "train-images-idx3-ubyte", 3).sum()


def test_labels_that_do_not_match(raw):
    path = raw / "train-labels-idx1-ubyte"
    path.write_bytes(idx(np.zeros(299, np.uint8)))
    with pytest.raises(UserError, match="299 labels up to 0 for 300 images"):
        fashion_mnist(raw)
    path.write_bytes(idx(np.full(300, 10, np.uint8)))
    with pytest.raises(UserError, match="up to 10"):
        fashion_mnist(raw)


def test_pool_is_the_mean_rounded_half_up():
    square = np.array([[0, 1], [1, 0]], np.uint8)  # mean 0.5 -> 1
    assert pool(square[None, None], 1).item() == 1
    assert pool(np.array([[0, 1], [0, 0]], np.uint8)[None, None], 1).item() == 0  # 0.25 -> 0
    assert pool(np.full((1, 1, 4, 4), 255, np.uint8), 2).tolist() == [[[[255, 255], [255, 255]]]]
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    for resolution in (32, 16, 8, 4):
        mean = torch.nn.functional.avg_pool2d(torch.from_numpy(images).double(), 32 // resolution).numpy()
        assert np.array_equal(pool(images, resolution), np.floor(mean + 0.5).astype(np.uint8))
    with pytest.raises(UserError, match="resolution = 12"):
        pool(images, 12)


def test_the_file_holds_what_was_given(raw, tmp_path):
    path = tmp_path / "dataset.safetensors"
    metadata = pack(path, fashion_mnist(raw), "fashion-mnist", 16, [{"file": "f", "sha256": "s"}])
    tensors, read = load_tensors(path, digested=False)
    assert read == metadata and read["sources"] == [{"file": "f", "sha256": "s"}]
    data = load_dataset(path)
    assert data.train_images.shape == (300, 1, 16, 16) and data.train_images.dtype == torch.uint8
    assert data.test_images.shape == (40, 1, 16, 16) and data.test_labels.dtype == torch.int64
    assert (data.n_classes, data.name) == (10, "fashion-mnist")
    padded = np.pad(read_idx(raw / "t10k-images-idx3-ubyte", 3), ((0, 0), (2, 2), (2, 2)))
    assert np.array_equal(data.test_images[:, 0].numpy(), pool(padded[:, None], 16)[:, 0])
    assert np.array_equal(data.train_labels.numpy(), read_idx(raw / "train-labels-idx1-ubyte", 1))
    assert data.sigma_data == pytest.approx(to_float(data.train_images).double().std(correction=0).item(), rel=1e-6)
    for name in dataset.TENSORS:  # the same tensors through the library's own writer
        assert torch.equal(safetensors.torch.load_file(path)[name], tensors[name])


def test_equal_content_is_equal_bytes_in_any_pieces(raw, tmp_path):
    images = fashion_mnist(raw)
    pack(tmp_path / "a", images, "x", 16, [])
    pieces = [np.concatenate(kind) for kind in zip(*images.train.chunks(), strict=True)]
    ragged = Rows(300, lambda: iter([(pieces[0][:7], pieces[1][:7]), (pieces[0][7:], pieces[1][7:])]))
    pack(tmp_path / "b", Images(shape=images.shape, n_classes=10, train=ragged, test=images.test), "x", 16, [])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_that_are_not_as_announced(tmp_path):
    good = np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4, np.int64)
    for shape, n_rows, n_classes, chunk, words in (
        ((1, 8, 8), 5, 2, good, "delivered 4 images or more, expected 5"),
        ((1, 8, 8), 3, 2, good, "expected 3"),
        ((3, 8, 8), 4, 2, good, r"expected uint8 \(3, 8, 8\)"),
        ((1, 8, 8), 4, 2, (good[0], good[1] + 2), "labels 0 and on reach from 2 to 2 in 2 classes"),
        ((1, 8, 8), 4, 2, (good[0], good[1] - 1), "from -1"),
    ):
        rows = Rows(n_rows, lambda chunk=chunk: iter([chunk]))
        with pytest.raises(UserError, match=words):
            pack(tmp_path / "x", Images(shape=shape, n_classes=n_classes, train=rows, test=Rows(0, lambda: iter(()))), "x", 8, [])
        assert not list(tmp_path.iterdir())


def test_a_flipped_byte_and_a_cut_file_are_noticed(raw, tmp_path):
    path = tmp_path / "dataset.safetensors"
    pack(path, fashion_mnist(raw), "x", 16, [])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000] + bytes([whole[-1000] ^ 1]) + whole[-999:])
    with pytest.raises(UserError, match="its header says"):
        load_dataset(path)
    load_dataset(path, verify=False)
    path.write_bytes(whole[:-1000])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_dataset(path)
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="it lacks train_images"):
        load_dataset(path)


def test_uint8_and_float_are_inverse():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(every)), every)
    assert to_float(every).aminmax() == (torch.tensor(-1.0), torch.tensor(1.0))
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


def test_batches_depend_on_seed_purpose_and_step_alone():
    images, labels = torch.arange(100, dtype=torch.uint8).reshape(100, 1, 1, 1), torch.arange(100)
    x, y = batch(images, labels, 64, Draw(3, "teacher", 7))
    assert torch.equal(to_uint8(x).flatten().long(), y) and x.dtype == torch.float32 and x.shape == (64, 1, 1, 1)
    torch.manual_seed(123)
    assert torch.equal(batch(images, labels, 64, Draw(3, "teacher", 7))[1], y)
    for other in ((4, "teacher", 7), (3, "student", 7), (3, "teacher", 8)):
        assert not torch.equal(batch(images, labels, 64, Draw(*other))[1], y)
    drawn = torch.cat([batch(images, labels, 64, Draw(0, "p", step))[1] for step in range(100)])
    assert drawn.bincount(minlength=100).min() > 30  # 64 expected


def test_gz_by_hand_with_or_without_its_name_in_the_header(tmp_path):
    content = idx(np.zeros((2, 28, 28), np.uint8))
    file = File(name="x-idx", sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content), compression="gzip")
    folder = tmp_path / "raw"
    folder.mkdir()
    named, bare = tmp_path / "named.gz", tmp_path / "bare.gz"
    with gzip.GzipFile("x-idx", "wb", fileobj=open(named, "wb"), mtime=1504176606) as stream:
        stream.write(content)
    bare.write_bytes(gzip.compress(content, mtime=0))
    assert named.read_bytes() != bare.read_bytes()
    for place in (named, bare):
        assert keep(place, file, None, folder, "by hand").sha256 == file.sha256
        assert already_kept(file, None, folder).verified == "pinned"
    whole = bare.read_bytes()
    for data, words in (
        (whole[:-9], "not a whole gzip file"),
        (gzip.compress(content + b"\0"), f"more than the expected {len(content)} bytes"),
        (gzip.compress(content[:-1]), f"holds {len(content) - 1} bytes"),
        (gzip.compress(bytes(len(content))), "has sha256"),
        (whole[:20] + b"\xff\xff\xff" + whole[23:], "not a whole gzip file|has sha256"),
    ):
        bare.write_bytes(data)
        with pytest.raises(Refused, match=words):
            keep(bare, file, None, folder, "by hand")
    assert [path.name for path in folder.iterdir()] == ["x-idx"]


def test_registry_is_whole_and_honest():
    assert set(LOADERS) == set(DataSet.__args__)
    assert set(DataSet.__args__) - set(SOURCES) == {"image-zip", "image-folder"}
    for name, source in SOURCES.items():
        assert name == source.name and source.licence and source.purpose and source.date
        assert source.homepage.startswith("https://")
        for file in source.files:
            assert file.addresses or source.by_hand or source.wheel
            assert all(address.startswith(("https://", "http://fashion-mnist.s3")) for address in file.addresses)
            assert file.sha256 is None or (len(file.sha256) == 64 and file.size_bytes)
            assert all(address.startswith("https://") or file.sha256 for address in file.addresses)
    json.dumps([vars(source.files[0]) for source in SOURCES.values()])


def test_parameters_name_what_is_wrong():
    good = {"name": "fashion-mnist", "resolution": 16, "local": "data/local"}
    assert validate(Data, good, "data").held_out == 0
    for change, words in (
        ({"name": "mnist"}, "data.name = 'mnist'"),
        ({"resolution": "16"}, "data.resolution = '16'"),
        ({"resolution": 2}, "greater than or equal to 4"),
        ({"held_out": -1}, "data.held_out = -1"),
        ({"sha256": {"a": "xyz"}}, "64 hexadecimal digits"),
        ({"colour": 1}, "unknown key data.colour"),
    ):
        with pytest.raises(UserError, match=words):
            validate(Data, {**good, **change}, "data")


def test_published_md5_of_fashion_mnist_belong_to_the_pinned_content():
    """What links the two digests in the registry: Debian's stream with name and time put back into the header is the official file."""
    import struct
    from pathlib import Path

    folder = Path(SOURCES["fashion-mnist"].package.folder)
    if not folder.is_dir():
        pytest.skip("the Debian package is not installed")
    times = {"train": 1504176606, "t10k-": 1504176627}
    for file in sources.SOURCES["fashion-mnist"].files:
        data = (folder / file.served_name).read_bytes()
        head = data[:2] + b"\x08\x08" + struct.pack("<I", times[file.name[:5]]) + b"\0\x03" + file.name.encode() + b"\0"
        official = head + data[10:]
        assert (hashlib.md5(official).hexdigest(), len(official)) == (file.served_md5, file.served_bytes)
        assert hashlib.sha256(gzip.decompress(data)).hexdigest() == file.sha256
