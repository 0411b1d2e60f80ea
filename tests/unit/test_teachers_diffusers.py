"""diffusers U-Nets as denoisers: exact against the library's own schedulers, read only when every weight fits, nothing executed."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, EulerDiscreteScheduler, UNet2DModel
from own_inputs import TINY_UNET
from pickle_bombs import bombs
from safetensors.torch import load_file, save_file

from backtrail.data.diffusers_folder import find_diffusers
from backtrail.data.fetched_folder import fetch_outside, fetched_files
from backtrail.data.sources import source_of_teacher
from backtrail.denoiser import Condition
from backtrail.errors import UserError
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.nets.discrete_time import DiffusersTeacher, DiscreteTimeDenoiser, build, noise_levels
from backtrail.teachers.diffusers import DDPM_FAMILY, import_diffusers
from backtrail.teachers.imported import import_teacher
from backtrail.teachers.reader import Refused
from backtrail.teachers.zipped_tensors import check_work

torch.set_num_threads(1)

UNET = {**TINY_UNET, "in_channels": 3, "out_channels": 3}
SCHEDULES = {"linear": {}, "scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012}, "squaredcos_cap_v2": {}}


def unet(**changes) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel.from_config({**UNET, **changes}).eval().requires_grad_(False)


def pair(prediction: str, schedule: str, kind=DDPMScheduler) -> tuple[DiscreteTimeDenoiser, DDPMScheduler]:
    settings = {"beta_schedule": schedule, "prediction_type": prediction, **SCHEDULES[schedule]}
    configuration = DiffusersTeacher(unet=UNET, **settings)
    denoiser = DiscreteTimeDenoiser(unet(), noise_levels(configuration), prediction)
    return denoiser, kind(**settings, clip_sample=False)


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_estimate_is_the_schedulers_own(prediction, schedule, kind):
    denoiser, scheduler = pair(prediction, schedule, kind)
    scheduler.set_timesteps(1000)
    for t in (0, 1, 37, 500, 998, 999):
        x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(t))
        with torch.no_grad():
            expected = scheduler.step(denoiser.net(x_t, t).sample, t, x_t).pred_original_sample
        ours = denoiser(x_t / scheduler.alphas_cumprod[t].sqrt(), denoiser.sigmas[t])
        assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_level_has_exactly_its_time_step_in_any_precision(schedule):
    denoiser, _ = pair("epsilon", schedule)
    steps = torch.arange(1000)
    assert torch.equal(denoiser.time(denoiser.sigmas), steps.float())
    exact = DiffusersTeacher(unet=UNET, beta_schedule=schedule, **SCHEDULES[schedule])
    assert torch.equal(denoiser.time(noise_levels(exact).double() * (1 + 3e-8)), steps.float())


def test_between_the_levels_time_is_the_librarys_interpolation():
    denoiser, _ = pair("epsilon", "scaled_linear")
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    levels = (((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5).numpy()
    sigma = np.geomspace(levels[0] * 0.5, levels[-1] * 2, 301)
    expected = scheduler._sigma_to_t(sigma, np.log(levels))
    assert np.abs(denoiser.time(torch.tensor(sigma)).numpy() - expected).max() < 2e-3  # half of it is the snap to whole steps
    assert denoiser.time(torch.tensor([1e-4, 1e4])).tolist() == [0.0, 999.0]


def test_each_image_has_its_own_noise_level():
    denoiser, _ = pair("v_prediction", "linear")
    x, sigma = torch.randn(3, 3, 8, 8), torch.tensor([0.1, 2.0, 60.0])
    together = denoiser(x, sigma)
    alone = torch.cat([denoiser(x[i : i + 1], sigma[i]) for i in range(3)])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_labels_reach_a_network_with_classes_and_learned_variance_is_left_out():
    levels = noise_levels(DiffusersTeacher(unet=UNET))
    denoiser = DiscreteTimeDenoiser(unet(num_class_embeds=4, out_channels=6), levels, "epsilon")
    x = torch.randn(2, 3, 8, 8)
    first, second = (denoiser(x, torch.tensor(1.0), Condition(labels=torch.tensor(labels))) for labels in ([0, 1], [0, 2]))
    assert first.shape == x.shape
    assert torch.allclose(first[0], second[0]) and not torch.allclose(first[1], second[1], rtol=1e-4)


def save(folder: Path, nested: bool = True, safe: bool = True, **scheduler) -> UNet2DModel:
    net = unet()
    net.save_pretrained(folder / "unet" if nested else folder, safe_serialization=safe)
    DDPMScheduler(**scheduler).save_pretrained(folder / "scheduler" if nested else folder)
    return net


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("safe", [True, False])
def test_a_saved_pipeline_arrives_bit_for_bit(tmp_path, nested, safe):
    net = save(tmp_path / "ddpm", nested, safe, prediction_type="v_prediction", beta_end=0.03)
    denoiser = import_diffusers(tmp_path / "ddpm")
    configuration = denoiser.configuration
    assert (denoiser.n_classes, denoiser.image_shape, denoiser.step_condition) == (0, (3, 8, 8), False)
    assert configuration.prediction_type == "v_prediction" and configuration.beta_end == 0.03
    for name, value in net.state_dict().items():
        assert torch.equal(denoiser.net.state_dict()[name], value)
    save_denoiser(tmp_path / "teacher.safetensors", denoiser)
    again = load_denoiser(tmp_path / "teacher.safetensors")
    x = torch.randn(2, 3, 8, 8)
    assert again.configuration == configuration
    assert torch.equal(again(x, torch.tensor(3.3)), denoiser(x, torch.tensor(3.3)))


def test_building_on_the_meta_device_keeps_the_schedule():
    with torch.device("meta"):
        denoiser = build(DiffusersTeacher(unet=UNET))
    assert denoiser.sigmas.device.type == "cpu" and next(denoiser.net.parameters()).device.type == "meta"


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        import_diffusers(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_folders_that_do_not_fit_are_refused(tmp_path):
    assert "config.json is missing" in refusal(tmp_path / "none")
    save(tmp_path / "a")
    edit(tmp_path / "a/unet/config.json", layers_per_block=2)
    assert "size mismatch" in refusal(tmp_path / "a")
    for change in ({"conv_out.bias": None}, {"conv_extra.bias": torch.zeros(1)}):
        save(tmp_path / "g")
        weights = tmp_path / "g/unet/diffusion_pytorch_model.safetensors"
        kept = {name: value for name, value in {**load_file(weights), **change}.items() if value is not None}
        save_file(kept, weights, metadata={"format": "pt"})
        kind = "missing" if "conv_out.bias" in change else "unexpected"
        assert f"does not fit its config.json ({kind} keys: {next(iter(change))})" in refusal(tmp_path / "g")
    save(tmp_path / "b")
    edit(tmp_path / "b/unet/config.json", _class_name="UNet2DConditionModel")
    assert "describes no UNet2DModel" in refusal(tmp_path / "b")
    save(tmp_path / "c", prediction_type="epsilon")
    edit(tmp_path / "c/scheduler/scheduler_config.json", prediction_type="flow")
    assert "'flow'" in refusal(tmp_path / "c")
    save(tmp_path / "e")
    os.truncate(tmp_path / "e/unet/diffusion_pytorch_model.safetensors", 5000)
    assert "cannot be read by diffusers" in refusal(tmp_path / "e")
    save(tmp_path / "f")
    (tmp_path / "f/unet/diffusion_pytorch_model.safetensors").unlink()
    assert "holds no weights: expected diffusion_pytorch_model.safetensors, or .bin" in refusal(tmp_path / "f")


class Call:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))])
def test_a_hostile_weight_file_is_refused_and_not_executed(tmp_path, write):
    save(tmp_path / "ddpm")
    (tmp_path / "ddpm/unet/diffusion_pytorch_model.safetensors").unlink()
    write({"conv_in.weight": Call(f"touch {tmp_path / 'canary'}")}, tmp_path / "ddpm/unet/diffusion_pytorch_model.bin")
    assert "cannot be read by diffusers" in refusal(tmp_path / "ddpm")
    assert not (tmp_path / "canary").exists()


# What an import of modules refuses, and what is no more than so many values where there are none.
OF_MODULES = {"50,000 weights under 1,000 names", "a name of 200 kB above 5,000 modules", "300,000 arguments"}


@pytest.mark.parametrize("bomb", [content for name, content in bombs().items() if name not in OF_MODULES])
def test_a_bomb_in_a_weight_file_is_refused_before_torch_reads_it(tmp_path, bomb):
    file = tmp_path / "diffusion_pytorch_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", bomb)
        archive.writestr("archive/version", "3\n")
    with pytest.raises(Refused):
        check_work(file)


def test_a_weight_file_that_torch_wrote_passes_and_one_whose_numbers_are_not_there_does_not(tmp_path):
    torch.save(unet().state_dict(), tmp_path / "whole.bin")
    check_work(tmp_path / "whole.bin")
    with zipfile.ZipFile(tmp_path / "whole.bin") as whole, zipfile.ZipFile(tmp_path / "cut.bin", "w") as cut:
        for name in whole.namelist():
            if not name.endswith("/data/0"):
                cut.writestr(name, whole.read(name))
    with pytest.raises(Refused, match="whose numbers are not there"):
        check_work(tmp_path / "cut.bin")
    torch.save(unet().state_dict(), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(Refused, match="no zip as torch writes"):
        check_work(tmp_path / "old.bin")


@pytest.mark.parametrize("kind", DDPM_FAMILY)
def test_a_scheduler_of_the_ddpm_family_is_read_by_its_betas(tmp_path, kind):
    scheduler = getattr(diffusers, kind)(beta_schedule="scaled_linear", beta_end=0.015, num_train_timesteps=100)
    unet().save_pretrained(tmp_path)
    scheduler.save_pretrained(tmp_path)
    edit(tmp_path / "scheduler_config.json", use_karras_sigmas=True)  # how it samples, which is no matter of the network
    denoiser = import_diffusers(tmp_path)
    signal = scheduler.alphas_cumprod.double()
    assert torch.equal(denoiser.sigmas, ((1 - signal) / signal).sqrt().float())
    assert len(denoiser.sigmas) == 100 and denoiser.prediction == "epsilon"


def test_a_value_that_the_file_leaves_out_is_the_default_of_its_own_class(tmp_path):
    unet().save_pretrained(tmp_path)
    for kind in ("HeunDiscreteScheduler", "DDPMScheduler"):
        (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": kind}), encoding="utf-8")
        default = getattr(diffusers, kind)()
        signal = default.alphas_cumprod.double()
        assert torch.equal(import_diffusers(tmp_path).sigmas, ((1 - signal) / signal).sqrt().float())


def test_trained_betas_are_taken_as_they_are_and_must_be_betas(tmp_path):
    betas = np.linspace(0.001, 0.3, 7)
    save(tmp_path, nested=False, trained_betas=betas.tolist(), num_train_timesteps=7)
    signal = np.cumprod(1 - betas)
    assert np.allclose(import_diffusers(tmp_path).sigmas.numpy(), np.sqrt((1 - signal) / signal), rtol=1e-5)
    for wrong in (0.0, 1.0):
        edit(tmp_path / "scheduler_config.json", trained_betas=[*betas[:-1].tolist(), wrong])
        assert "betas that are not all between 0 and 1" in refusal(tmp_path)


def test_betas_rescaled_to_end_in_pure_noise_are_read_up_to_the_last_finite_level(tmp_path):
    save(tmp_path, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    denoiser, scheduler = (
        import_diffusers(tmp_path),
        DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample=False),
    )
    assert scheduler.alphas_cumprod[-1] == 0 and len(denoiser.sigmas) == 999
    scheduler.set_timesteps(1000)
    for t in (0, 500, 998):
        x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(t))
        expected = scheduler.step(denoiser.net(x_t, t).sample, t, x_t).pred_original_sample
        ours = denoiser(x_t / scheduler.alphas_cumprod[t].sqrt(), denoiser.sigmas[t])
        assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


OTHERS = ("ScoreSdeVe", "CMStochasticIterative", "FlowMatchEulerDiscrete", "EDMEuler", "LCM", "TCD")


@pytest.mark.parametrize("kind", OTHERS)
def test_a_scheduler_of_another_process_is_refused_by_name(tmp_path, kind):
    unet().save_pretrained(tmp_path)
    getattr(diffusers, f"{kind}Scheduler")().save_pretrained(tmp_path)
    assert f"is of {kind}Scheduler: expected a scheduler whose betas say how the network was trained (DDPM, " in refusal(tmp_path)
    (tmp_path / "scheduler_config.json").write_text("{}", encoding="utf-8")
    assert "is of None" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("scheduler_config.json", {"use_flow_sigmas": True}, "use_flow_sigmas = True"),
        ("scheduler_config.json", {"timestep_type": "continuous"}, "timestep_type = 'continuous'"),
        ("scheduler_config.json", {"beta_schedule": "laplace"}, "beta_schedule = 'laplace'"),
        ("config.json", {"class_embed_type": "timestep"}, "class_embed_type = 'timestep': expected null"),
        ("config.json", {"class_embed_type": "identity"}, "class_embed_type = 'identity': expected null"),
        ("config.json", {"addition_embed_type": "text"}, "has addition_embed_type, which a UNet2DModel does not have"),
        ("config.json", {"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier': expected positional"),
        ("config.json", {"in_channels": 6}, "makes 3 channels of 6"),
        ("config.json", {"sample_size": None}, "names no sample_size"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(tmp_path, file, change, words):
    save(tmp_path, nested=False)
    edit(tmp_path / file, **change)
    assert words in refusal(tmp_path)


LAYOUTS = {
    "flat": {},
    "bin": {"safe_serialization": False},
    "fp16": {"variant": "fp16"},
    "sharded": {"max_shard_size": "20KB"},
    "sharded-fp16": {"max_shard_size": "10KB", "variant": "fp16"},
    "sharded-bin": {"max_shard_size": "20KB", "safe_serialization": False},
}


@pytest.mark.parametrize("name", ["pipeline", *LAYOUTS])
def test_what_the_library_saves_is_fetched_and_gives_the_librarys_own_estimate(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    net, scheduler = unet(), DDPMScheduler(beta_end=0.03, clip_sample=False)
    if "fp16" in name:
        net.half()
    if name == "pipeline":
        DDPMPipeline(net, scheduler).save_pretrained("mine")
    else:
        net.save_pretrained("mine", **LAYOUTS[name])
        scheduler.save_pretrained("mine")
    assert len(find_diffusers("mine").weights) > 1 or "sharded" not in name
    listed = fetch_outside("kept", [source_of_teacher("own-diffusers", "mine")], "mine")["files"]
    assert fetched_files("kept") == {entry["name"]: entry["sha256"] for entry in listed}
    denoiser, x_t, t = import_teacher("own-diffusers", "kept"), torch.randn(2, 3, 8, 8), 700
    scheduler.set_timesteps(1000)
    with torch.no_grad():
        expected = scheduler.step(net.float()(x_t, t).sample, t, x_t).pred_original_sample
    ours = denoiser(x_t / scheduler.alphas_cumprod[t].sqrt(), denoiser.sigmas[t])
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_plain_weights_come_before_variants_and_safetensors_before_pickles(tmp_path):
    save(tmp_path, nested=False)
    for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert find_diffusers(tmp_path).files == ("config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors")
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    assert find_diffusers(tmp_path).weights == ("diffusion_pytorch_model.bin",)
    (tmp_path / "diffusion_pytorch_model.bin").unlink()
    assert "the variants fp16 and non_ema and no plain ones" in refusal(tmp_path)


def test_an_index_of_shards_reaches_no_file_beside_its_own_folder(tmp_path):
    save(tmp_path, nested=False)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.rename(tmp_path / "part.safetensors")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    for place in ("../part.safetensors", "/etc/passwd", "a/part.safetensors", "..", ""):
        index.write_text(json.dumps({"weight_map": {"conv_in.weight": place}}), encoding="utf-8")
        assert "should name the weights' files, which lie beside it" in refusal(tmp_path)
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "other.safetensors"}}), encoding="utf-8")
    assert "lacks other.safetensors" in refusal(tmp_path)


def test_a_pipeline_with_parts_beside_the_u_net_is_refused_by_their_names(tmp_path):
    save(tmp_path)
    parts = {"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({**parts, "safety_checker": [None, None]}), encoding="utf-8")
    assert import_diffusers(tmp_path).image_shape == (3, 8, 8)
    index.write_text(json.dumps({**parts, "vqvae": ["diffusers", "VQModel"]}), encoding="utf-8")
    assert "model_index.json names vqvae: expected a pipeline of pixels" in refusal(tmp_path)
