"""The first stage of fashion-text: its net, its loss, its training that can be stopped, and what it encodes images as."""

from pathlib import Path

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from backtrail.data.dataset import Dataset, to_float, to_uint8
from backtrail.errors import UserError
from backtrail.nets.autoencoder import Autoencoder, Posterior, build_autoencoder, load_autoencoder, save_autoencoder
from backtrail.parameters.text import AutoencoderParameters, AutoencoderTraining
from backtrail.randomness import image_noise
from backtrail.teachers.autoencoder import autoencoder_state, autoencoder_update, decode, encode, set_scale
from backtrail.tensors import save_tensors
from backtrail.training.data_parallel import Group
from backtrail.training.loop import run
from unit.text_world import assert_resumes, small_dataset

P = AutoencoderTraining(
    net=AutoencoderParameters(channels=(16, 16)), steps=8, batch=8, optimiser={"lr": 2e-3, "betas": (0.9, 0.99)}, kl_weight=1e-3
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(tmp_path_factory.mktemp("autoencoder"))


def test_latents_are_four_times_smaller_and_the_dossiers_net_has_its_size() -> None:
    net = Autoencoder(AutoencoderParameters())
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    posterior = net.encode(images)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 4, 8, 8) and net.decode(posterior.mean).shape == images.shape
    multiplications = 0

    def count(layer: torch.nn.Conv2d, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal multiplications
        multiplications += layer.weight[0].numel() * output[0].numel()

    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    net.decode(net.encode(images[:1]).mean)
    assert round(multiplications / 1e6) == 27


def test_the_divergence_is_torchs_own() -> None:
    mean, logvar = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
    q = Normal(mean, (logvar / 2).exp())
    expected = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).flatten(1).sum(1)
    assert torch.allclose(Posterior(mean, logvar).kl(), expected, rtol=1e-12)
    samples = Posterior(mean, logvar).sample(
        torch.randn(100_000, 3, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    assert torch.allclose(samples.mean(0), mean, atol=0.03) and torch.allclose(samples.std(0), q.stddev, rtol=0.02)


def test_the_loss_is_summed_over_an_image_and_its_gradient_is_that_of_the_whole_batch(dataset: Dataset) -> None:
    """Against the sum written out; and in passes of three images the first update is the same."""
    whole, parted = autoencoder_state(P), autoencoder_state(P, group=Group(micro_batch=3))
    losses = [autoencoder_update(state, P, dataset, 0) for state in (whole, parted)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(whole.modules["autoencoder"].parameters(), parted.modules["autoencoder"].parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)
    one = AutoencoderTraining(**P.model_dump() | {"batch": 60, "kl_weight": 0.0})
    found = autoencoder_update(autoencoder_state(one), one, dataset, 0)
    net, images = build_autoencoder(P.net, P.seed), to_float(dataset.train_images)
    with torch.no_grad():  # new, the net gives about zero whatever the latents are
        assert found["l1"] == pytest.approx((net.decode(net.encode(images).mean) - images).abs().mean().item(), rel=0.05)


def test_a_weight_on_the_divergence_brings_the_posterior_nearer_to_the_normal_law(dataset: Dataset) -> None:
    def last(weight: float) -> dict[str, float]:
        p = AutoencoderTraining(**P.model_dump() | {"kl_weight": weight, "steps": 30})
        state = autoencoder_state(p)
        return [losses for _, losses in run(state, lambda step: autoencoder_update(state, p, dataset, step), p.steps)][-1]

    free, bound = last(0.0), last(10.0)
    assert bound["kl"] < free["kl"] / 3 and free["l1"] < bound["l1"]


def test_a_run_that_was_stopped_ends_with_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    update = lambda state, step: autoencoder_update(state, P, dataset, step)  # noqa: E731
    assert_resumes(lambda: autoencoder_state(P), update, lambda state: state.modules["autoencoder"].state_dict(), P.steps, 5, tmp_path)


def test_latents_have_standard_deviation_one_and_decode_to_what_the_net_says(dataset: Dataset, tmp_path: Path) -> None:
    net = build_autoencoder(P.net, 3).eval().requires_grad_(False)
    set_scale(net, dataset.train_images[:8])
    assert encode(net, dataset.train_images[:8], "sample").std().item() == pytest.approx(1, rel=1e-5)
    path = tmp_path / "autoencoder.safetensors"
    save_autoencoder(path, net, dataset=dataset.digest)
    again, metadata = load_autoencoder(path)
    assert metadata["dataset"] == dataset.digest and torch.equal(again.scaling_factor, net.scaling_factor)
    images = dataset.test_images
    means, q = encode(again, images, "mean", "test"), net.encode(to_float(images))
    assert torch.allclose(means, q.mean * net.scaling_factor, atol=1e-6)
    assert (decode(again, means).int() - to_uint8(net.decode(q.mean)).int()).abs().max() <= 1
    noise = image_noise(range(20), (4, 8, 8), "posterior-test")
    assert torch.allclose(encode(again, images, "sample", "test"), q.sample(noise) * net.scaling_factor, atol=1e-5)


def test_an_images_latent_is_independent_of_the_batch(dataset: Dataset) -> None:
    net = build_autoencoder(P.net, 3).eval()
    whole, parted = (encode(net, dataset.train_images, "sample", batch_size=n) for n in (60, 7))
    assert torch.allclose(whole, parted, atol=1e-5)
    assert not torch.allclose(whole, encode(net, dataset.train_images, "sample", "test"), atol=0.1)


def test_what_is_no_autoencoder_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(UserError, match="holds no autoencoder"):
        load_autoencoder(tmp_path / "a.safetensors")
    net = build_autoencoder(P.net)
    weights = {name: value for name, value in net.state_dict().items() if "scaling" not in name}
    save_autoencoder(tmp_path / "b.safetensors", net, weights)
    with pytest.raises(UserError, match=r"missing keys: scaling_factor.*run the stage `text-autoencoder`"):
        load_autoencoder(tmp_path / "b.safetensors")
