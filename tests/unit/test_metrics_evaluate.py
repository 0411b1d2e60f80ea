"""Reference statistics, values with their protocol, and the parameters that decide them."""

import hashlib

import pytest
import torch
from torch import nn

from backtrail.artifacts import load_json, save_json
from backtrail.errors import UserError
from backtrail.metrics.evaluate import METRICS, SETTINGS, evaluate, evaluate_samplings, protocol
from backtrail.metrics.features import Extractor
from backtrail.metrics.frechet import frechet_distance, moments
from backtrail.metrics.pairs import Pairs, Side
from backtrail.metrics.ranking import blur, real_images, variants
from backtrail.metrics.reference import choose, load_reference, save_reference
from backtrail.parameters.base import validate
from backtrail.parameters.metrics import Metrics, Mismatch

CONTRACT = {
    "metric",
    "extractor",
    "extractor_sha256",
    "resize",
    "dtype",
    "n_images",
    "n_reference",
    "reference_sha256",
    "samplings",
    "seeds",
    "settings",
}


class Pixels(nn.Module):
    """Features that can be worked out by hand: the image's pixels over 100."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.01), requires_grad=False)

    def forward(self, images):
        return images.flatten(1) * self.scale


def pixels(digest="a" * 64):
    return Extractor("classifier", digest, 16, "none", "float32", Pixels())


def images(n, seed, low=0, high=256):
    return torch.randint(low, high, (n, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


P = Metrics(extractors=["classifier"], n_samples=60, n_curve=30, n_reference=150, n_pairwise=40)


@pytest.fixture
def measure(tmp_path):
    save_reference(tmp_path / "r.safetensors", pixels(), images(200, 0), P)
    return pixels(), load_reference(tmp_path / "r.safetensors", pixels())


def test_reference_holds_the_moments_of_chosen_images(measure, tmp_path):
    _, reference = measure
    features = images(200, 0)[choose(200, 150)].flatten(1) * torch.tensor(0.01)
    mean, covariance = moments(features)
    assert torch.equal(reference.mean, mean) and torch.allclose(reference.factor @ reference.factor.T, covariance, atol=1e-12)
    assert torch.equal(reference.features, features[:40]) and reference.n_images == 150
    assert reference.sha256 == hashlib.sha256((tmp_path / "r.safetensors").read_bytes()).hexdigest()


def test_a_smaller_choice_is_a_prefix_of_a_larger_one():
    assert choose(100, 10).tolist() == choose(100, 60)[:10].tolist() and len(set(choose(100, 1000).tolist())) == 100


def test_a_reference_in_other_features_is_refused(measure, tmp_path):
    with pytest.raises(UserError, match="should have extractor_sha256 'bbb"):
        load_reference(tmp_path / "r.safetensors", pixels("b" * 64))


def test_values_are_those_of_the_metrics_alone(measure):
    samples = images(60, 1, 0, 200)
    e, reference = measure
    values = evaluate(samples, {"classifier": measure}, P)
    features = e.features(samples)
    pairs = Pairs(Side(features[:40]), Side(reference.features))
    assert values == {
        "fd_classifier": frechet_distance(features, reference.mean, reference.factor),
        "kid_classifier": pairs.kernel_distance(),
        "precision_classifier": pairs.precision(3),
        "recall_classifier": pairs.recall(3),
        "density_classifier": pairs.density(5),
        "coverage_classifier": pairs.coverage(5),
    }


def test_several_sets_give_their_mean_and_their_smallest_distance(measure):
    p, samples = P.model_copy(update={"samplings": 3}), images(180, 2, 0, 220)
    measures = {"classifier": measure}
    values, sets = evaluate_samplings(samples, measures, p), [evaluate(part, measures, P) for part in samples.split(60)]
    for name in sets[0]:
        assert values[name] == pytest.approx(sum(one[name] for one in sets) / 3, rel=1e-12)
    assert values["fd_classifier_best"] == min(one["fd_classifier"] for one in sets) < values["fd_classifier"]
    assert {name for name in values if name.endswith("_best")} == {"fd_classifier_best"}
    assert {entry["metric"] for entry in protocol(measures, p, (0, 180))} == set(values)
    assert evaluate_samplings(samples[:60], measures, P) == sets[0]
    with pytest.raises(UserError, match="n_samples x samplings = 180: found 60 images"):
        evaluate_samplings(samples[:60], measures, p)


def test_every_value_has_its_protocol_and_can_be_written(measure, tmp_path):
    entries = protocol({"classifier": measure}, P, (0, 60))
    values = evaluate(images(60, 1), {"classifier": measure}, P)
    assert [entry["metric"] for entry in entries] == list(values)
    assert all(set(entry) == CONTRACT and entry["seeds"] == [0, 60] for entry in entries)
    by_name = {entry["metric"]: entry for entry in entries}
    assert (by_name["fd_classifier"]["n_images"], by_name["fd_classifier"]["n_reference"]) == (60, 150)
    assert (by_name["kid_classifier"]["n_images"], by_name["kid_classifier"]["n_reference"]) == (40, 40)
    assert by_name["recall_classifier"]["settings"]["k"] == 3 and by_name["coverage_classifier"]["settings"]["k"] == 5
    assert by_name["fd_classifier"]["reference_sha256"] == measure[1].sha256
    save_json(tmp_path / "m.json", {"values": values, "protocol": entries})
    assert load_json(tmp_path / "m.json")["protocol"] == entries


def test_nothing_is_called_fid():
    assert set(METRICS) == set(SETTINGS) and not any("fid" in name for name in METRICS)


def test_another_number_of_images_and_an_absent_reference_are_refused(measure):
    with pytest.raises(UserError, match="n_samples = 60: found 59 images"):
        evaluate(images(59, 1), {"classifier": measure}, P)
    with pytest.raises(UserError, match="names classifier, and no reference of it was given; given: none"):
        evaluate(images(60, 1), {}, P)


def test_real_images_report_floor_ranking_and_protocol(measure):
    report = real_images(images(90, 3), measure, P)
    chosen = images(90, 3)[choose(90, 60)]
    assert report["floor"] == evaluate(chosen, {"classifier": measure}, P)
    assert report["ranking"]["values"]["real"] == report["floor"]["fd_classifier"]
    assert report["floor_curve"]["n_images"] == 30 and report["floor_curve"]["fd_classifier"] > report["floor"]["fd_classifier"]
    with pytest.raises(UserError, match="ask for 60 test images; the data set has 59"):
        real_images(images(59, 3), measure, P)


def test_variants_are_what_their_names_say():
    flat = torch.full((50, 1, 8, 8), 128, dtype=torch.uint8)
    made = variants(flat)
    for std in (0.05, 0.1, 0.2):
        assert (made[f"noise {std}"].double() - 128).std().item() / 127.5 == pytest.approx(std, rel=0.05)
    assert torch.equal(made["blur 1.0"], flat) and torch.equal(made["real"], flat)
    point = torch.zeros(1, 1, 17, 17, dtype=torch.uint8)
    point[0, 0, 8, 8] = 255
    spread = blur(point, 1.0)[0, 0].double()
    assert spread[8, 8].item() == pytest.approx(255 / (2 * torch.pi), abs=1) and torch.equal(spread, spread.T)
    assert spread[8, 9].item() / spread[8, 8].item() == pytest.approx(0.6065, abs=0.02)


def test_parameters_name_what_is_not_allowed():
    assert validate(Metrics, {}, "metrics") == Metrics()
    known = "'classifier', 'efficientnet-lite0', 'inception' or 'inception-clean'"
    with pytest.raises(UserError, match=rf"metrics\.extractors\.0 = 'vgg': .*{known}"):
        validate(Metrics, {"extractors": ["vgg"]}, "metrics")
    with pytest.raises(UserError, match=r"sigmas\.1 = -1\.0: should be greater than or equal to 0\.000001"):
        validate(Mismatch, {"sigmas": [1.0, -1.0]}, "mismatch")
    with pytest.raises(UserError, match=r"1\.0 stands in the list twice"):
        validate(Mismatch, {"sigmas": [1.0, 1.0]}, "mismatch")
    with pytest.raises(UserError, match=r"unknown key metrics\.kid"):
        validate(Metrics, {"kid": 1}, "metrics")
