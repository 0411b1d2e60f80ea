"""Inception against torch-fidelity's own, on the same random weights; reference statistics from a published file."""

import os
import pickle
import time
import warnings
from pathlib import Path

import cleanfid.fid
import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from backtrail.data.sources import SOURCES
from backtrail.errors import UserError
from backtrail.metrics.evaluate import evaluate, protocol
from backtrail.metrics.features import extractor
from backtrail.metrics.frechet import factor, frechet_distance, moments
from backtrail.metrics.measures import INCEPTION
from backtrail.metrics.reference import load_reference, read_moments, save_reference
from backtrail.nets.inception import prepare, read_inception, resize
from backtrail.parameters.metrics import Metrics
from backtrail.stages.reference import published_statistics
from unit.random_inception import write_random_weights

CLEAN = "reference-clean-cifar10-32x32"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_random_weights(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.fixture(scope="module")
def fidelity(weights):
    return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))


@pytest.fixture(scope="module")
def ours(weights):
    return extractor("inception", weights)


def images(n: int, side: int = 32, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Smooth random images, uint8: noise of an eighth of the size, enlarged."""
    small = torch.rand(n, channels, side // 8, side // 8, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear") * 255).to(torch.uint8)


@pytest.mark.parametrize("side", [16, 32, 64, 299, 400])
def test_the_resize_is_torch_fidelitys_to_the_bit(side):
    x = torch.rand(2, 3, side, side + 1, generator=torch.Generator().manual_seed(side)) * 255
    assert torch.equal(resize(x, (299, 299)), interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False))


@pytest.mark.parametrize("side", [32, 64])
def test_features_are_torch_fidelitys(ours, fidelity, side):
    x = images(3, side)
    expected = fidelity(x)[0]
    found = ours.features(x)
    assert found.shape == (3, 2048) and found.dtype == torch.float32
    assert expected.abs().mean() > 0.1 and expected.std(0).mean() > 1e-2  # the images do differ
    assert (found - expected).norm() < 1e-6 * expected.norm()


def test_folding_changes_nothing_beyond_rounding(weights, ours):
    x = images(2)
    plain = read_inception(weights)(x)
    assert (ours.features(x) - plain).norm() < 1e-6 * plain.norm()


@pytest.mark.slow
def test_it_reads_more_images_a_second_than_torch_fidelity(ours, fidelity, capsys):
    """In CPU time, one thread, the same images in one run; about twice as many where nothing else runs."""
    x, rates = images(32), {}
    for name, read in {"torch-fidelity": lambda: fidelity(x), "ours": lambda: ours.features(x, 32)}.items():
        read()
        started = time.process_time()
        read()
        rates[name] = len(x) / (time.process_time() - started)
    with capsys.disabled():
        print(", ".join(f"{name}: {rate:.1f} images/s" for name, rate in rates.items()))
    assert rates["ours"] > 1.3 * rates["torch-fidelity"]


def test_grey_is_three_equal_channels(ours):
    grey = images(2, channels=1)
    assert torch.equal(ours.features(grey), ours.features(grey.expand(-1, 3, -1, -1)))


@pytest.mark.slow
def test_the_distance_is_torch_fidelitys(fidelity, ours):
    """From images to FID by two ways, on few images: ours has the reference's factor and no matrix square root."""
    x, y = images(12, 16, seed=1), images(10, 16, seed=2)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(fidelity(z)[0]) for z in (x, y)), False)
    mean, covariance = moments(ours.features(y))
    assert frechet_distance(ours.features(x), mean, factor(covariance)) == pytest.approx(
        theirs["frechet_inception_distance"], rel=1e-4, abs=1e-4
    )


def test_the_files_of_the_stages_are_the_registrys():
    assert INCEPTION.removeprefix("data/inception/") == SOURCES["inception-2015-12-05"].files[0].name
    for name in ("cifar10-32x32", "ffhq-64x64", "afhqv2-64x64", "imagenet-64x64"):
        assert [file.name for file in SOURCES[f"reference-{name}"].files] == [f"{name}.npz"]


def test_other_weights_are_refused_and_nothing_is_executed(tmp_path, weights):
    with pytest.raises(UserError, match="is missing: run the stage `fetch-inception`"):
        read_inception(tmp_path / "absent.pth")
    state = torch.load(weights, weights_only=True)
    state.pop("Mixed_7c.branch_pool.bn.weight")
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"does not fit Inception.*Mixed_7c\.branch_pool\.bn\.weight"):
        read_inception(tmp_path / "short.pth")

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"conv": Evil()}, tmp_path / "zipped.pth")
    for name in ("evil.pth", "zipped.pth"):
        with pytest.raises(UserError, match="no file of plain weights"):
            read_inception(tmp_path / name)
    assert not (tmp_path / "canary").exists()


def published(path, mean, covariance):
    np.savez(path, mu=mean, sigma=covariance)
    return path


def test_published_statistics_stand_for_the_data(tmp_path, ours):
    """The reference is the npz's to the last digit; FID is named so, and the protocol says what is not known of it."""
    p = Metrics(extractors=["inception"], metrics=["fd", "kid"], n_samples=5, n_pairwise=4, batch_size=2, k_precision=2)
    x = images(5, 16, seed=3)
    random = np.random.default_rng(0).standard_normal((2048, 40)) * 0.1
    mean = np.linspace(0, 1, 2048)
    file = published(tmp_path / "cifar10-32x32.npz", mean, random @ random.T)
    save_reference(tmp_path / "reference.safetensors", ours, images(6, 16, seed=4), p, file)
    reference = load_reference(tmp_path / "reference.safetensors", ours)
    assert reference.n_images is None and len(reference.features) == 4 and reference.factor.shape == (2048, 40)
    torch.testing.assert_close(reference.mean, torch.from_numpy(mean), rtol=0, atol=0)
    measures = {"inception": (ours, reference)}
    values = evaluate(x, measures, p)
    assert set(values) == {"fid_inception", "kid_inception"}
    lower = torch.linalg.qr(torch.from_numpy(random).mT, mode="r").R.mT  # another factor of the same covariance
    assert values["fid_inception"] == pytest.approx(frechet_distance(ours.features(x), torch.from_numpy(mean), lower))
    entries = {entry["metric"]: entry for entry in protocol(measures, p, (0, 5))}
    assert entries["fid_inception"]["n_reference"] is None and entries["kid_inception"]["n_reference"] == 4


def test_wrong_statistics_are_refused(tmp_path):
    good = np.eye(3)
    with pytest.raises(UserError, match="is missing"):
        read_moments(tmp_path / "absent.npz", 3)
    with pytest.raises(UserError, match=r"should hold 4 means and 4x4 covariances; found \[3\] and \[3, 3\]"):
        read_moments(published(tmp_path / "a.npz", np.zeros(3), good), 4)
    with pytest.raises(UserError, match="not finite"):
        read_moments(published(tmp_path / "b.npz", np.full(3, np.nan), good), 3)
    with pytest.raises(UserError, match="not symmetric"):
        read_moments(published(tmp_path / "c.npz", np.zeros(3), np.triu(np.ones((3, 3)))), 3)
    with pytest.raises(UserError, match="no reference statistics"):
        read_moments(published(tmp_path / "d.npz", np.array([print, print, print], dtype=object), good), 3)
    np.savez(tmp_path / "e.npz", mean=np.zeros(3))
    with pytest.raises(UserError, match="no reference statistics"):
        read_moments(tmp_path / "e.npz", 3)
    (tmp_path / "f.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match="no reference statistics"):
        read_moments(tmp_path / "f.npz", 3)


def photographs(n: int, side: int = 32) -> np.ndarray:
    """Pieces of a photograph that comes with matplotlib, uint8 [n, 3, side, side]."""
    with Image.open(get_sample_data("grace_hopper.jpg")) as image:
        whole = np.asarray(image.convert("RGB"))
    places = np.random.default_rng(0).integers(0, np.array(whole.shape[:2]) - side, (n, 2))
    return np.stack([whole[y : y + side, x : x + side].transpose(2, 0, 1) for y, x in places])


def test_clean_fid_itself_comes_to_the_same_number_from_files(tmp_path, weights):
    """clean-fid reads two folders of photographs, resizes, and takes its distance of eight of the features; ours reads the arrays."""
    clean, kept = extractor("inception-clean", weights), slice(0, 256, 32)
    sets = dict(zip("ab", np.split(photographs(24), 2), strict=True))
    for name, images_of in sets.items():
        (tmp_path / name).mkdir()
        for i, pixels in enumerate(images_of):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / name / f"{i:02}.png")

    def net(batch: torch.Tensor) -> torch.Tensor:
        return clean.network.net.pooled(prepare(batch))[:, kept]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy's of an argument that clean-fid passes
        theirs = cleanfid.fid.compare_folders(
            str(tmp_path / "a"), str(tmp_path / "b"), net, "clean", device=torch.device("cpu"), verbose=False
        )
    mean, covariance = moments(clean.features(torch.from_numpy(sets["b"]))[:, kept])
    ours = frechet_distance(clean.features(torch.from_numpy(sets["a"]))[:, kept], mean, factor(covariance))
    assert ours == pytest.approx(theirs, rel=1e-4) and ours > 1e-3


def test_grey_images_and_the_two_resizings(weights):
    clean, plain = extractor("inception-clean", weights), extractor("inception", weights)
    x = images(3, side=24)
    found = clean.features(x)
    assert (found - plain.features(x)).norm() > 1e-3 * found.norm()  # the two resizings are not one
    assert clean.resize != plain.resize and clean.digest == plain.digest
    grey = images(2, side=24, channels=1)
    torch.testing.assert_close(clean.features(grey), clean.features(grey.expand(-1, 3, -1, -1).contiguous()))


def test_the_statistics_of_clean_fid_are_of_its_own_extractor(tmp_path):
    p = Metrics(extractors=["inception", "inception-clean"], inception={"clean_reference": CLEAN, "local": "data/local"})
    assert published_statistics("inception-clean", p) == Path("data/inception/cifar10_clean_train_32.npz")
    assert published_statistics("inception", p) is None
    with pytest.raises(ValueError, match=f"{CLEAN} is in the features of an extractor that metrics.extractors lacks"):
        Metrics(extractors=["inception"], inception={"clean_reference": CLEAN, "local": "data/local"})
