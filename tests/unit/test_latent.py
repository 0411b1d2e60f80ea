"""Pipelines of latents, with and without a text: what is read of them does, step by step, what the library's own pipelines do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UNet2DModel, VQModel
from own_inputs import TINY_UNET
from safetensors.torch import load_file, save_file

from backtrail.conditions import Condition, time_ids
from backtrail.data.diffusers_folder import find_diffusers
from backtrail.denoiser import Guided
from backtrail.errors import UserError
from backtrail.levels import signal
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.parameters.discrete_time import STABLE_DIFFUSION
from backtrail.sampling.sample import Sampler
from backtrail.sampling.schedules import schedule
from backtrail.sampling.solvers import SOLVERS
from backtrail.teachers.diffusers import import_autoencoder, import_diffusers
from backtrail.teachers.text_encoders import import_text
from unit.latent_pipelines import BETAS, STABLE, autoencoder, moved, sdxl, stable_diffusion, unet, write_tokenizer

pytest.importorskip("transformers")
torch.set_num_threads(1)
CAPTIONS = ["a photo of a cat", "two dogs, one of them asleep"]


@pytest.fixture(scope="module")
def sd(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    stable_diffusion(folder / "tokens").save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="module")
def xl(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("xl")
    sdxl(folder / "tokens").save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def refusal(read, *arguments, **options) -> str:
    with pytest.raises(UserError) as error:
        read(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- text -------------------------------------------------------------------------------------------------------------------------------


def test_the_tokenizer_is_clips(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("!").input_ids[1] in (0, 256)  # as a word's end it is another symbol


def test_the_encoding_of_a_text_is_the_pipelines(sd, xl):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    told, pipeline = import_text(sd), StableDiffusionPipeline.from_pretrained(sd)
    positive, negative = pipeline.encode_prompt(CAPTIONS, "cpu", 1, True)
    assert torch.equal(told(CAPTIONS).tokens, positive) and torch.equal(told.null(zeros=False).tokens, negative[:1])
    assert told(CAPTIONS).pooled is None and not told.null(zeros=True).tokens.any()

    told, pipeline = import_text(xl), StableDiffusionXLPipeline.from_pretrained(xl)
    positive, negative, pooled, negative_pooled = pipeline.encode_prompt(CAPTIONS, device="cpu", do_classifier_free_guidance=True)
    found, null = told(CAPTIONS), told.null(zeros=True)
    assert torch.equal(found.tokens, positive) and torch.equal(found.pooled, pooled)
    assert torch.equal(null.tokens, negative[:1]) and torch.equal(null.pooled, negative_pooled[:1]) and not null.tokens.any()
    positive, negative, _, negative_pooled = pipeline.encode_prompt(CAPTIONS, device="cpu", negative_prompt=["", ""])
    empty = told.null(zeros=False)
    torch.testing.assert_close(empty.tokens, negative[:1]), torch.testing.assert_close(empty.pooled, negative_pooled[:1])


# --- sampling ---------------------------------------------------------------------------------------------------------------------------


def run(pipeline, steps: int, latents: torch.Tensor, **options) -> list[torch.Tensor]:
    """The latents after each step of the library's pipeline, x_t in its own scale."""
    states = []

    def keep(pipeline, step, time, kept):
        states.append(kept["latents"].clone())
        return {}

    pipeline.set_progress_bar_config(disable=True)
    pipeline(CAPTIONS, num_inference_steps=steps, latents=latents, output_type="latent", callback_on_step_end=keep, **options)
    return states


def in_double(denoiser, *conditions: Condition) -> list:
    return [denoiser.double(), *(Condition(**{k: v.double() for k, v in c.told.items()}) for c in conditions)]


def exact(scheduler):
    """The library's scheduler with its signal in float64."""
    scheduler.alphas_cumprod = signal(STABLE_DIFFUSION)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    return scheduler


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_ddim_of_stable_diffusion_step_by_step(sd, guidance, record_property):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(sd, scheduler=exact(DDIMScheduler(**STABLE))).to(torch.float64)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = run(pipeline, 8, z, guidance_scale=guidance)

    text = import_text(sd)
    denoiser, told, null = in_double(import_diffusers(sd, latent=True), text(CAPTIONS), text.null(zeros=False))
    # The pipeline encodes in float64.
    positive, negative = pipeline.encode_prompt(CAPTIONS, "cpu", 1, True)
    torch.testing.assert_close(told.tokens, positive, rtol=1e-4, atol=1e-5)
    told, null = Condition(tokens=positive), Condition(tokens=negative[:1])
    times = schedule("leading", 9, denoiser.sigmas[0].item(), 80.0, 1.0)
    start = denoiser.start_scale(times[0].item()) * z
    ours = SOLVERS["euler"](Guided(denoiser, guidance, null), start, times, told)
    errors = [((x / (1 + s**2).sqrt() - y).abs().max() / y.abs().max()).item() for x, y, s in zip(ours, theirs, times[1:], strict=True)]
    record_property("largest relative error of a state", max(errors))
    assert max(errors) < 1e-12 and len(errors) == 8, errors


@pytest.mark.parametrize("name", ["euler", "dpmpp-2m"])
def test_euler_and_dpm_solver_of_stable_diffusion_step_by_step(sd, name, record_property):
    """Both compute their steps and levels in float32, whatever the network computes in."""
    from diffusers import StableDiffusionPipeline

    # DPM-Solver++'s leading spacing is of one step more than asked for, unlike the others'.
    kind, spacing = (EulerDiscreteScheduler, "leading") if name == "euler" else (DPMSolverMultistepScheduler, "trailing")
    scheduler = kind(**BETAS, steps_offset=1, timestep_spacing=spacing, final_sigmas_type="sigma_min")
    pipeline = StableDiffusionPipeline.from_pretrained(sd, scheduler=scheduler).to(torch.float64)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = run(pipeline, 8, z, guidance_scale=3.0)
    positive, negative = pipeline.encode_prompt(CAPTIONS, "cpu", 1, True)
    (denoiser,) = in_double(import_diffusers(sd, latent=True))
    guided = Guided(denoiser, 3.0, Condition(tokens=negative[:1]))
    times = schedule(spacing, 9, denoiser.sigmas[0].item(), 80.0, 1.0)
    start = denoiser.start_scale(times[0].item()) * z
    ours = SOLVERS[name](guided, start, times, Condition(tokens=positive))
    scale = (1 + times[1:] ** 2).sqrt() if name != "euler" else torch.ones(8)  # Euler's states are in the exploding form
    errors = [((x / c - y).abs().max() / y.abs().max()).item() for x, y, c in zip(ours, theirs, scale, strict=True)]
    record_property("largest relative error of a state", max(errors))
    assert max(errors) < 5e-6 and len(errors) == 8, errors


def test_ddim_of_sdxl_step_by_step_with_zeros_for_the_other_branch(xl, record_property):
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(xl, scheduler=exact(DDIMScheduler(**STABLE))).to(torch.float64)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sizes = {"original_size": (20, 24), "crops_coords_top_left": (3, 1), "target_size": (16, 16)}
    theirs = run(pipeline, 4, z, guidance_scale=8.0, **sizes)
    positive, _, pooled, _ = pipeline.encode_prompt(CAPTIONS, device="cpu")
    ids = time_ids((20, 24), (3, 1), (16, 16)).double().expand(2, 6)
    denoiser, null = in_double(import_diffusers(xl, latent=True), import_text(xl).null(zeros=True))
    times = schedule("leading", 5, denoiser.sigmas[0].item(), 80.0, 1.0)
    start = denoiser.start_scale(times[0].item()) * z
    ours = SOLVERS["euler"](Guided(denoiser, 8.0, null), start, times, Condition(tokens=positive, pooled=pooled, time_ids=ids))
    errors = [((x / (1 + s**2).sqrt() - y).abs().max() / y.abs().max()).item() for x, y, s in zip(ours, theirs, times[1:], strict=True)]
    record_property("largest relative error of a state", max(errors))
    assert max(errors) < 1e-12 and len(errors) == 4, errors


def test_one_step_at_399_is_dmd2s_generator(xl):
    """x0 = (z - sqrt(1 - a) eps) / sqrt(a) of unit noise, the network told 399."""
    denoiser, told = in_double(import_diffusers(xl, latent=True), import_text(xl)(CAPTIONS))
    told = Condition(**told.told, time_ids=time_ids((16, 16), (0, 0), (16, 16)).double().expand(2, 6))
    z, a = torch.randn(2, 4, 8, 8, dtype=torch.float64), signal(STABLE_DIFFUSION)[399]
    added = {"text_embeds": told.pooled, "time_ids": told.time_ids}
    noise = denoiser.net(z, 399, encoder_hidden_states=told.tokens, added_cond_kwargs=added).sample
    expected = (z - (1 - a).sqrt() * noise) / a.sqrt()
    found = Sampler(sigma_init=denoiser.sigmas[399].item())(denoiser, z, told)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_what_is_told_reaches_the_network_and_what_is_missing_is_named(xl):
    denoiser, text = import_diffusers(xl, latent=True), import_text(xl)
    told = Condition(**text(CAPTIONS).told, time_ids=time_ids((16, 16), (0, 0), (16, 16)).expand(2, 6))
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor(3.0)
    whole = denoiser(x, sigma, told)
    masked = Condition(**told.told, mask=torch.arange(77).expand(2, 77) < 4)
    others = {"mask": masked, "ids": Condition(**{**told.told, "time_ids": told.time_ids + 5})}
    others |= {name: Condition(**{**told.told, name: told.told[name].flip(0)}) for name in ("tokens", "pooled")}
    for name, other in others.items():
        assert (denoiser(x, sigma, other) - whole).abs().max() > 1e-5, name
    for name in ("tokens", "pooled", "time_ids"):
        with pytest.raises(ValueError, match=f"the network is told a text, and the condition has no {name}"):
            denoiser(x, sigma, Condition(**{k: v for k, v in told.told.items() if k != name}))


# --- files ------------------------------------------------------------------------------------------------------------------------------

SHARDS = {"max_shard_size": "20KB"}
LAYOUTS = {"plain": {}, "fp16": {"variant": "fp16"}, "sharded": SHARDS, "sharded fp16": {**SHARDS, "variant": "fp16"}}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_a_text_network_arrives_bit_for_bit_and_goes_through_our_file(layout, tmp_path):
    net, folder = unet(), tmp_path / "pipeline"
    if "fp16" in layout:
        net.half()
    net.save_pretrained(folder / "unet", **LAYOUTS[layout])
    DDIMScheduler(**STABLE, prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    assert len(find_diffusers(folder).weights) > 1 or "sharded" not in layout
    denoiser = import_diffusers(folder, latent=True)
    assert (denoiser.image_shape, denoiser.n_classes, denoiser.p.prediction_type) == ((4, 8, 8), 0, "v_prediction")
    assert all(torch.equal(denoiser.net.state_dict()[name], value.float()) for name, value in net.state_dict().items())
    save_denoiser(tmp_path / "teacher.safetensors", denoiser)
    again = load_denoiser(tmp_path / "teacher.safetensors")
    told, x = Condition(tokens=torch.randn(2, 5, 16)), torch.randn(2, 4, 8, 8)
    assert again.configuration == denoiser.configuration
    assert torch.equal(again(x, torch.tensor(2.0), told), denoiser(x, torch.tensor(2.0), told))


@pytest.mark.parametrize(("kind", "scale"), [("kl", 0.18215), ("sdxl", 0.13025), ("shifted", 0.3)])
def test_images_go_to_latents_and_back_as_in_the_library(kind, scale, tmp_path):
    settings = {"kl": {}, "sdxl": {"scaling_factor": 0.13025}, "shifted": {"scaling_factor": 0.3, "shift_factor": 0.5}}[kind]
    net = autoencoder(**settings)
    net.save_pretrained(tmp_path)
    ours, images = import_autoencoder(tmp_path), torch.rand(2, 3, 16, 16) * 2 - 1
    law, shift = net.encode(images).latent_dist, settings.get("shift_factor", 0.0)
    latents = ours.encode(images)
    assert latents.shape == (2, 4, 8, 8)
    torch.testing.assert_close(latents, (law.mode() - shift) * scale)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    drawn = law.sample(generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours.encode(images, noise), (drawn - shift) * scale)
    torch.testing.assert_close(ours.decode(latents), net.decode(law.mode()).sample, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.reconstruct(images), net(images).sample, rtol=1e-4, atol=1e-5)


def test_files_of_2022_are_read(sd, tmp_path):
    """Stable Diffusion's text encoder kept the numbers of its positions, its autoencoder other names of its attention."""
    for part in ("text_encoder", "tokenizer", "vae"):
        shutil.copytree(sd / part, tmp_path / part)
    file = tmp_path / "text_encoder/model.safetensors"
    kept = load_file(file)
    prefix = next(name for name in kept if "position_embedding" in name).split("position_embedding")[0]
    save_file({**kept, f"{prefix}position_ids": torch.arange(77)[None]}, file, metadata={"format": "pt"})
    assert torch.equal(import_text(tmp_path)(CAPTIONS).tokens, import_text(sd)(CAPTIONS).tokens)

    file = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    older = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    renamed = {}
    for name, value in load_file(file).items():
        for new, old in older.items():
            name = name.replace(new, old)
        renamed[name] = value
    assert sum(".query." in name for name in renamed) == 4
    save_file(renamed, file, metadata={"format": "pt"})
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(import_autoencoder(tmp_path / "vae").encode(images), import_autoencoder(sd / "vae").encode(images))


def test_a_vq_model_has_the_scale_that_is_said_and_decodes_the_nearest_codes(tmp_path):
    torch.manual_seed(0)
    shape = {"block_out_channels": [8, 16], "norm_num_groups": 4, "latent_channels": 3, "num_vq_embeddings": 32, "sample_size": 16}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    net = moved(VQModel.from_config({**shape, **blocks}))
    net.save_pretrained(tmp_path / "vqvae")
    assert "whose scaling_factor is a default that says nothing: name the scale" in refusal(import_autoencoder, tmp_path / "vqvae")
    ours, images = import_autoencoder(tmp_path / "vqvae", scale=1.0), torch.rand(2, 3, 16, 16) * 2 - 1
    before = net.encode(images).latents
    assert torch.equal(ours.encode(images), before)
    codes, _, _ = net.quantize(before)
    assert (codes - before).abs().max() > 1e-3
    torch.testing.assert_close(ours.decode(before), net.decode(codes, force_not_quantize=True).sample)
    with pytest.raises(ValueError, match="no posterior"):
        ours.encode(images, before)

    UNet2DModel.from_config({**TINY_UNET, "in_channels": 3, "out_channels": 3}).save_pretrained(tmp_path / "unet")
    DDIMScheduler(**{**BETAS, "beta_start": 0.0015, "beta_end": 0.0195}, clip_sample=False).save_pretrained(tmp_path / "scheduler")
    parts = {"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"], "vqvae": ["diffusers", "VQModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(parts), encoding="utf-8")
    denoiser = import_diffusers(tmp_path, latent=True)
    assert denoiser.sigmas[[0, 999]].tolist() == pytest.approx([0.03875891356, 83.82249447], rel=1e-9)
    assert "names vqvae: expected a pipeline of pixels, with scheduler and unet alone" in refusal(import_diffusers, tmp_path)


def test_what_a_network_of_text_may_not_be_is_refused(tmp_path):
    unet().save_pretrained(tmp_path)
    DDIMScheduler(**STABLE).save_pretrained(tmp_path)
    for change, words in (
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep': expected null, since labels are embedded by number alone"),
        ({"class_embed_type": "identity"}, "class_embed_type = 'identity'"),
        ({"addition_embed_type": "text"}, "addition_embed_type = 'text': expected null or text_time"),
        ({"time_cond_proj_dim": 4}, "time_cond_proj_dim = 4: expected null, since a network that is told the weight of guidance"),
        ({"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type = 'text_proj'"),
        ({"in_channels": 9}, "makes 4 channels of 9"),
        ({"block_out_channels": [8, 24]}, "size mismatch"),
        ({"cross_attention_dim": 10**9}, "does not fit its config.json"),
        ({"_class_name": "Transformer2DModel"}, "describes no UNet2DModel or UNet2DConditionModel"),
    ):
        kept = (tmp_path / "config.json").read_text(encoding="utf-8")
        edit(tmp_path / "config.json", **change)
        assert words in refusal(import_diffusers, tmp_path, latent=True), words
        (tmp_path / "config.json").write_text(kept, encoding="utf-8")


def test_text_encoders_that_are_not_clips_are_refused(sd, tmp_path):
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(sd / part, tmp_path / part)
    config = tmp_path / "text_encoder/config.json"
    kept = config.read_text(encoding="utf-8")
    for change, words in (
        ({"architectures": ["T5EncoderModel"]}, "describes no CLIPTextModel or CLIPTextModelWithProjection"),
        ({"hidden_size": 18}, "does not fit its config.json"),
        ({"num_hidden_layers": 10**9}, "of more than"),
    ):
        edit(config, **change)
        assert words in refusal(import_text, tmp_path), words
        config.write_text(kept, encoding="utf-8")
    assert import_text(tmp_path)(["a"]).tokens.shape == (1, 77, 16)
    (tmp_path / "text_encoder").rename(tmp_path / "text_encoder_2")
    (tmp_path / "tokenizer").rename(tmp_path / "tokenizer_2")
    assert "expected text_encoder/ of a CLIPTextModel, alone or with text_encoder_2/" in refusal(import_text, tmp_path)
    (tmp_path / "text_encoder_2/model.safetensors").unlink()
    assert "holds no weights: expected model.safetensors" in refusal(import_text, tmp_path)
