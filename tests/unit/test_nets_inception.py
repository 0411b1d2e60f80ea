"""Inception against torch-fidelity's own, on the same random weights; reference statistics from a published file."""

import os
import pickle
import time

import numpy as np
import pytest
import torch
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
from backtrail.nets.inception import read_inception, resize
from backtrail.parameters.metrics import Metrics
from unit.random_inception import write_random_weights


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
    assert values["fid_inception"] == pytest.approx(frechet_distance(ours.features(x), torch.from_numpy(mean), torch.from_numpy(random)))
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


def test_clean_features_are_those_of_clean_fids_resizing(weights, fidelity):
    """clean-fid's own resizing of each image, then the net of torch-fidelity without its resizing."""
    from cleanfid.resize import build_resizer

    x = images(3, side=24)
    resized = torch.stack([torch.from_numpy(build_resizer("clean")(image.permute(1, 2, 0).numpy())).permute(2, 0, 1) for image in x])
    clean, plain = extractor("inception-clean", weights), extractor("inception", weights)
    with torch.inference_mode():
        expected = plain.network.pooled((resized - 128) / 128)
    found = clean.features(x)
    assert (found - expected).norm() <= 1e-6 * expected.norm()
    assert (found - plain.features(x)).norm() > 1e-3 * expected.norm()  # the two resizings are not one
    assert (clean.resize, clean.digest) != (plain.resize, plain.digest) and clean.digest == plain.digest
    grey = images(2, side=24, channels=1)
    torch.testing.assert_close(clean.features(grey), clean.features(grey.expand(-1, 3, -1, -1).contiguous()))
