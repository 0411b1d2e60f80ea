"""The latent teacher of text to images: its net, its loss, its latents, its training that can be stopped."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backtrail.conditions import Condition
from backtrail.data.caption_archive import CaptionArchive
from backtrail.data.dataset import Dataset
from backtrail.denoiser import Guided, NetDenoiser
from backtrail.errors import UserError
from backtrail.levels import noise_levels
from backtrail.nets.autoencoder import build_autoencoder
from backtrail.nets.build import at_step_condition, load_denoiser, save_denoiser, with_step_condition
from backtrail.nets.lora import merged_state, with_adapter
from backtrail.parameters.discrete_time import STABLE_DIFFUSION
from backtrail.parameters.lora import Lora
from backtrail.parameters.net import TextUNetParameters
from backtrail.parameters.text import AutoencoderParameters, TextTeacher
from backtrail.parameters.training import DiscreteSteps
from backtrail.randomness import Draw
from backtrail.teachers.autoencoder import set_scale
from backtrail.teachers.latents import Latents, encode_dataset, load_latents, save_latents
from backtrail.teachers.text import text_teacher_state, text_teacher_update, without_text
from backtrail.tensors import save_tensors
from backtrail.training.data_parallel import Group
from backtrail.training.noise import score_matching_loss
from unit.text_world import assert_resumes, random_captions, small_dataset

NET = TextUNetParameters(channels=[8, 16], head_width=8, token_width=12, pooled_width=12)
P = TextTeacher(net=NET, steps=6, batch=8, optimiser={"lr": 2e-3}, average={"half_life": 50.0, "ramp": None}, text_dropout=0.4)


@pytest.fixture(scope="module")
def texts() -> CaptionArchive:
    return random_captions()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def latents(dataset: Dataset) -> Latents:
    net = build_autoencoder(AutoencoderParameters(channels=(8, 8))).eval()
    set_scale(net, dataset.train_images[:32])
    return encode_dataset(net, dataset, "sample", 0)


@pytest.fixture(scope="module")
def teacher() -> NetDenoiser:
    """One whose every layer says something: new, attention and blocks are the identity."""
    return randomised(text_teacher_state(P).modules["teacher"].eval().requires_grad_(False))


@torch.no_grad()
def randomised(net: NetDenoiser) -> NetDenoiser:
    drawn = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=drawn) * 0.3)
    return net


def told(texts: CaptionArchive, *numbers: int) -> Condition:
    time_ids = torch.tensor([[28.0, 28, i % 5, (2 * i) % 5, 32, 32] for i in range(len(numbers))])
    return texts.condition(torch.tensor(numbers), time_ids)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def test_a_new_teacher_says_no_noise_so_that_it_returns_what_it_is_given(texts: CaptionArchive) -> None:
    x = noise(2, 4, 8, 8)
    assert torch.equal(text_teacher_state(P).modules["teacher"](x, torch.tensor(3.0), told(texts, 1, 2)), x)


def test_every_part_of_the_condition_is_heard_and_nothing_beyond_the_mask(teacher: NetDenoiser, texts: CaptionArchive) -> None:
    x, sigma, condition = noise(2, 4, 8, 8), torch.tensor([0.5, 2.0]), told(texts, 3, 400)
    found = teacher(x, sigma, condition)
    for name in ("tokens", "pooled", "time_ids"):
        other = replace(condition, **{name: getattr(condition, name).flip(0)})
        assert (teacher(x, sigma, other) - found).abs().flatten(1).amax(1).min() > 1e-3, name
    beyond = condition.tokens + 100 * ~condition.mask[:, :, None]
    assert torch.equal(teacher(x, sigma, replace(condition, tokens=beyond)), found)
    assert not torch.allclose(teacher(x, sigma, replace(condition, mask=None)), found, atol=1e-3)
    whole = replace(condition, mask=torch.ones_like(condition.mask))
    assert torch.allclose(teacher(x, sigma, whole), teacher(x, sigma, replace(condition, mask=None)), atol=1e-5)
    with pytest.raises(ValueError, match="is told tokens, pooled and time_ids; found nothing"):
        teacher(x, sigma)


def test_an_image_is_independent_of_the_others_in_its_batch(teacher: NetDenoiser, texts: CaptionArchive) -> None:
    x, condition = noise(5, 4, 8, 8), told(texts, 3, 400, 17, 99, 480)
    whole = teacher(x, torch.tensor(1.5), condition)
    for i in range(5):
        assert torch.allclose(teacher(x[i : i + 1], torch.tensor(1.5), condition.rows(slice(i, i + 1)))[0], whole[i], atol=1e-5)


def test_guidance_by_either_null_text(teacher: NetDenoiser, texts: CaptionArchive) -> None:
    """Micro-conditioning is told to both branches; the branches are written out here."""
    x, sigma, condition = noise(2, 4, 8, 8), torch.tensor(1.0), told(texts, 3, 400)
    empty = texts.rows(["", ""])
    zeros = Condition(tokens=torch.zeros(2, 8, 12), pooled=torch.zeros(2, 12), time_ids=condition.time_ids)
    for kind, branch in (("empty", texts.condition(empty, condition.time_ids)), ("zeros", zeros)):
        u, c = teacher(x, sigma, branch), teacher(x, sigma, condition)
        for scale in (0.0, 1.0, 3.0, 7.5):
            found = Guided(teacher, scale, texts.null(kind))(x, sigma, condition)
            assert torch.allclose(found, u + scale * (c - u), atol=2e-4)
    assert not torch.allclose(Guided(teacher, 3.0, texts.null("zeros"))(x, sigma, condition), found, atol=1e-2)


def test_the_loss_is_the_error_of_the_noise(teacher: NetDenoiser, texts: CaptionArchive) -> None:
    """Against x_t, the noise and the net written out, at the steps that are drawn."""
    x0, condition, draw = noise(16, 4, 8, 8), told(texts, *range(16)), Draw(0, "loss")
    law = DiscreteSteps(betas=STABLE_DIFFUSION, first=0, last=999)
    found = score_matching_loss(teacher, x0, law, draw, condition)
    steps, eps = draw.of("sigma").integers(1000, 16), draw.of("noise").normal((16, 4, 8, 8))
    signal = 1 / (1 + noise_levels(STABLE_DIFFUSION)[steps].float().reshape(-1, 1, 1, 1) ** 2)
    x_t = signal.sqrt() * x0 + (1 - signal).sqrt() * eps
    expected = (teacher.net(x_t, steps.float(), condition) - eps).square().sum((1, 2, 3)).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("kind", ["empty", "zeros"])
def test_a_dropped_text_is_the_null_text_and_keeps_its_micro_conditioning(texts: CaptionArchive, kind: str) -> None:
    condition, null = told(texts, 5, 6, 7), texts.null(kind)
    found = without_text(condition, null, torch.tensor([False, True, False]))
    for row in (0, 2):
        assert all(torch.equal(getattr(found, name)[row], getattr(condition, name)[row]) for name in ("tokens", "mask", "pooled"))
    assert torch.equal(found.tokens[1], null.tokens[0]) and torch.equal(found.pooled[1], null.pooled[0])
    assert torch.equal(found.mask[1], torch.ones(8, dtype=torch.bool) if null.mask is None else null.mask[0])
    assert torch.equal(found.time_ids, condition.time_ids)


def test_it_is_read_back_as_it_was_written_and_takes_the_step_condition(
    teacher: NetDenoiser, texts: CaptionArchive, tmp_path: Path
) -> None:
    x, sigma, condition = noise(2, 4, 8, 8), torch.tensor(0.7), told(texts, 3, 400)
    save_denoiser(tmp_path / "teacher.safetensors", teacher)
    again = load_denoiser(tmp_path / "teacher.safetensors")
    assert again.configuration == teacher.configuration and again.p.time_map == "ln-alpha"
    assert torch.equal(again(x, sigma, condition), teacher(x, sigma, condition))
    student = with_step_condition(teacher).eval()
    for steps in (4.0, 7.0):
        assert torch.equal(student(x, sigma, replace(condition, steps=torch.full((2,), steps))), teacher(x, sigma, condition))
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "affine_step" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=drawn) * 0.3)
    at_four = student(x, sigma, replace(condition, steps=torch.full((2,), 4.0)))
    assert not torch.allclose(at_four, teacher(x, sigma, condition), atol=1e-3)
    assert torch.allclose(at_step_condition(student, 4)(x, sigma, condition), at_four, atol=1e-5)


def test_adapters_on_it_begin_as_it_is_and_are_taken_up_by_its_weights(teacher: NetDenoiser, texts: CaptionArchive) -> None:
    pytest.importorskip("peft", reason="the extra `latent` is not installed")
    x, sigma, condition = noise(2, 4, 8, 8), torch.tensor(0.7), told(texts, 3, 400)
    student = with_adapter(teacher, Lora(rank=2, alpha=4.0), 0, "student")
    assert torch.allclose(student(x, sigma, condition), teacher(x, sigma, condition), atol=1e-5)
    layers = {name.partition(".lora_")[0] for name, _ in student.named_parameters()}
    assert {"net.down.0.text.key_value", "net.down.0.block.conv1", "net.embed_text.0", "net.head"} <= layers
    drawn = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for _, parameter in student.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=drawn) * 0.1)
    merged = copy.deepcopy(teacher)
    merged.load_state_dict(merged_state(student))
    found = student(x, sigma, condition)
    assert torch.allclose(merged(x, sigma, condition), found, atol=1e-4)
    assert not torch.allclose(teacher(x, sigma, condition), found, atol=1e-2)


def test_latents_carry_captions_and_crops_of_their_images(dataset: Dataset, latents: Latents, tmp_path: Path) -> None:
    assert latents.latents.shape == (60, 4, 8, 8) and latents.latents[:32].std().item() == pytest.approx(1, rel=1e-4)
    assert torch.equal(latents.captions, dataset.train_labels)
    assert latents.time_ids.shape == (60, 6) and {*latents.time_ids[:, 2].tolist()} == {0.0, 1.0, 2.0, 3.0, 4.0}
    save_latents(tmp_path / "a.safetensors", latents, dataset=dataset.digest)
    again = load_latents(tmp_path / "a.safetensors")
    assert (again.posterior, again.scaling_factor) == ("sample", latents.scaling_factor)
    assert torch.equal(again.latents, latents.latents) and torch.equal(again.time_ids, latents.time_ids)
    net = build_autoencoder(AutoencoderParameters(channels=(8, 8))).eval()
    with pytest.raises(UserError, match=r"not those of text.seed = 1"):
        encode_dataset(net, dataset, "mean", 1)
    save_tensors(tmp_path / "b.safetensors", {"latents": torch.zeros(1)})
    with pytest.raises(UserError, match="no archive of latents"):
        load_latents(tmp_path / "b.safetensors")


def test_a_run_that_was_stopped_ends_with_the_same_bytes(latents: Latents, texts: CaptionArchive, tmp_path: Path) -> None:
    update = lambda state, step: text_teacher_update(state, P, latents, texts, texts.null("empty"), step)  # noqa: E731
    assert_resumes(lambda: text_teacher_state(P), update, lambda state: state.averages["teacher"], P.steps, 4, tmp_path)


def test_passes_of_a_batch_add_up_and_other_texts_are_another_update(latents: Latents, texts: CaptionArchive) -> None:
    whole, parted, other = text_teacher_state(P), text_teacher_state(P, group=Group(micro_batch=3)), text_teacher_state(P)
    for state in (whole, parted, other):
        randomised(state.modules["teacher"])
    for step in range(2):
        losses = [text_teacher_update(state, P, latents, texts, texts.null(null), step)["loss"] for state, null in (
            (whole, "empty"), (parted, "empty"), (other, "zeros"),
        )]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)
