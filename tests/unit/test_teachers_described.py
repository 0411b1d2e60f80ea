"""What foreign weights and their descriptions must be: refused in one sentence, before memory is made for what they claim."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from edm_pickles import foreign_ema, randomised, write_checkpoint
from own_inputs import TINY_UNET
from safetensors.torch import load_file, save_file

from backtrail.errors import UserError
from backtrail.nets.build import construct_empty, load_denoiser
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.nets.unallocated import unallocated
from backtrail.teachers.diffusers import import_diffusers
from backtrail.teachers.edm import import_edm
from backtrail.tensors import save_tensors

torch.set_num_threads(1)

NET = SongUNetConfiguration(img_resolution=4, in_channels=1, out_channels=1, model_channels=8, channel_mult=(1,), num_blocks=1)
TEACHER = EDMTeacher(preconditioning=EDM(), net=NET)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    UNet2DModel.from_config(TINY_UNET).save_pretrained(folder / "unet")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of a saved pipeline, to be changed."""
    for part in ("unet", "scheduler"):
        (tmp_path / part).mkdir()
        for file in (saved / part).iterdir():
            (tmp_path / part / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def refusal(read, path: Path) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 600 and sentence.isascii()
    return sentence


def poisoned(kind: str, value: torch.Tensor) -> torch.Tensor:
    """A weight with what no trained network has."""
    if kind in ("nan", "inf", "-inf"):
        value = value.clone()
        value.view(-1)[-1] = float(kind)
        return value
    return value.to({"complex": torch.complex64, "integer": torch.int64}[kind])


KINDS = {
    "nan": "holds NaN or infinity in ",
    "inf": "holds NaN or infinity in ",
    "-inf": "holds NaN or infinity in ",
    "complex": "as torch.complex64, expected torch.float32",
    "integer": "as torch.int64, expected torch.float32",
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_no_network_has_are_refused_in_every_format(folder, tmp_path, kind, half):
    def changed(value: torch.Tensor) -> torch.Tensor:
        return poisoned(kind, value.half() if half else value)

    def is_refused(read, path: Path) -> None:
        assert KINDS[kind] in refusal(read, path)

    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "conv_in.bias": changed(tensors["conv_in.bias"])}, weights, metadata={"format": "pt"})
    is_refused(import_diffusers, folder)
    torch.save({**tensors, "conv_in.bias": changed(tensors["conv_in.bias"])}, weights.with_suffix(".bin"))
    weights.unlink()
    is_refused(import_diffusers, folder)

    denoiser = randomised(TEACHER)
    own = denoiser.state_dict()
    name = "net.map_layer0.bias"
    save_tensors(tmp_path / "t.safetensors", {**own, name: changed(own[name])}, {"denoiser": TEACHER.model_dump(mode="json")})
    is_refused(load_denoiser, tmp_path / "t.safetensors")

    if kind != "complex":  # the pickles that are read know no such storage
        ema = foreign_ema(denoiser, TEACHER)
        layer = ema._modules["model"]._modules["map_layer0"]
        layer._parameters["bias"] = changed(layer._parameters["bias"])
        is_refused(import_edm, write_checkpoint(tmp_path / "t.pkl", ema))


def test_weights_in_half_precision_are_taken(folder):
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    halves = {name: value.half() for name, value in load_file(weights).items()}
    save_file(halves, weights, metadata={"format": "pt"})
    found = import_diffusers(folder).net.state_dict()
    assert all(found[name].dtype == torch.float32 and torch.equal(found[name], value.float()) for name, value in halves.items())


@pytest.mark.parametrize("size", ["8", "x" * 100_000, 0, -8, 10**9, 8.0, True, [8], [8, 8, 8], [8, "8"], None, {}])
def test_sizes_of_images_that_are_none(folder, size):
    edit(folder / "unet/config.json", sample_size=size)
    assert "sample_size" in refusal(import_diffusers, folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers_per_block": 10_000}, "describes a network of more than 5000 modules"),
        ({"layers_per_block": 10**9}, "describes a network of more than 5000 modules"),
        ({"block_out_channels": [16384, 16384]}, "size mismatch"),
        ({"block_out_channels": [16384, 16384], "conv_in.weight": "left out"}, "numbers, its weights have"),
        ({"block_out_channels": [2**62, 2**62]}, "cannot be built"),
        ({"block_out_channels": [8] * 100_000}, "cannot be built"),
        ({"block_out_channels": "wide"}, "cannot be built"),
        ({"norm_num_groups": 0}, "cannot be built"),
        ({"down_block_types": ["x" * 100_000, "y"]}, "cannot be built"),
        ({"norm_eps": math.nan}, "has norm_eps = nan"),
    ],
)
def test_descriptions_are_held_against_the_weights_before_memory_is_made(folder, changes, words):
    if "conv_in.weight" in changes:  # no weight is left whose shape tells
        weights = folder / "unet/diffusion_pytorch_model.safetensors"
        save_file({"other": torch.zeros(1)}, weights, metadata={"format": "pt"})
    edit(folder / "unet/config.json", **{key: value for key, value in changes.items() if key in TINY_UNET or key == "norm_eps"})
    assert words in refusal(import_diffusers, folder)


REPORT = """
import resource, sys, time, torch
import diffusers
from diffusers import UNet2DModel
from backtrail.errors import UserError
from backtrail.teachers.diffusers import import_diffusers
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
for folder in sys.argv[1:]:
    before, start = peak(), time.process_time()
    try:
        import_diffusers(folder)
    except UserError as error:
        print(time.process_time() - start, peak() - before, error)
"""


@pytest.mark.slow
def test_a_description_of_a_kilobyte_takes_little_time_and_memory(folder, tmp_path):
    """Built with its memory, the second would be 40 GB."""
    for name, changes in (("deep", {"layers_per_block": 10_000}), ("wide", {"block_out_channels": [16384, 16384]})):
        shutil.copytree(folder / "unet", tmp_path / name / "unet")
        shutil.copytree(folder / "scheduler", tmp_path / name / "scheduler")
        edit(tmp_path / name / "unet/config.json", **changes)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", REPORT, str(tmp_path / "deep"), str(tmp_path / "wide")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        seconds, peak_bytes = map(float, line.split()[:2])
        assert seconds < 20 and peak_bytes < 200 << 20, line  # 2 s and 20 MB where this was written


@pytest.mark.parametrize("betas", [[-0.1] * 9, [0.1, 1.5, 0.1], [0.1, 1.0], [0.0, 0.1], [], [0.1], [math.nan, 0.1], [math.inf, 0.1]])
def test_betas_that_are_none(folder, betas):
    edit(folder / "scheduler/scheduler_config.json", trained_betas=betas, num_train_timesteps=max(2, len(betas)))
    assert "betas" in refusal(import_diffusers, folder)


def test_betas_that_are_some(folder):
    edit(folder / "scheduler/scheduler_config.json", trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3)
    assert len(import_diffusers(folder).sigmas) == 3


def test_the_limit_on_modules_ends_with_its_context():
    with pytest.raises(UserError, match="config describes a network of more than 5000 modules"), unallocated("config"):
        torch.nn.ModuleList(torch.nn.Identity() for _ in range(5001))
    assert len(torch.nn.ModuleList(torch.nn.Identity() for _ in range(5001))) == 5001
    assert all(parameter.is_meta for parameter in construct_empty(TEACHER, "file").parameters())


def test_names_that_are_no_text_are_shown_as_ascii(tmp_path):
    """A lone surrogate in a weight's name could not be printed."""
    ema = foreign_ema(randomised(TEACHER), TEACHER)
    ema._modules["model"]._modules["map_layer1"]._parameters["\ud800"] = torch.ones(1)
    assert r"unexpected keys: net.map_layer1.\ud800" in refusal(import_edm, write_checkpoint(tmp_path / "t.pkl", ema))
