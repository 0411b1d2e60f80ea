"""The example in a student's model card is run as it stands, for every kind of net in the house."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backtrail.denoiser import NetDenoiser
from backtrail.export.cards import example
from backtrail.nets.build import build, construct, save_denoiser, with_step_condition
from backtrail.nets.dhariwal import DhariwalConfiguration
from backtrail.nets.discrete_time import DiffusersTeacher
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.parameters.net import MLPParameters, UNetParameters
from backtrail.parameters.sampling import Schedule
from backtrail.sampling.sample import sample
from backtrail.sampling.student import FewStep, OneStep, StudentSampling, student_sampling

ONE_STEP = OneStep(sigma_init=2.5)


def few_steps(told: bool) -> FewStep:
    return FewStep(schedule=Schedule(), afs=True, step_condition=told, num_steps=[4, 5])


SMALL = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "num_blocks": 1, "attn_resolutions": (4,), "model_channels": 16}
UNET2D = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D"),
}  # fmt: skip


def built_in(n_classes: int = 0) -> NetDenoiser:
    return build(UNetParameters(resolution=8, stem=1, channels=[8, 8], n_classes=n_classes), 0.5)


def edm(net: SongUNetConfiguration | DhariwalConfiguration) -> NetDenoiser:
    return construct(EDMTeacher(preconditioning=EDM(), net=net))


def told_its_steps(denoiser: NetDenoiser) -> NetDenoiser:
    return with_step_condition(denoiser, random_start=True)


SONG, ADM = SongUNetConfiguration(**SMALL, channel_mult=(1, 2)), DhariwalConfiguration(**SMALL, channel_mult=(1, 2), label_dim=10)
NETS: dict[str, Callable[[], NetDenoiser]] = {
    "built-in": built_in,
    "built-in, classes": lambda: built_in(10),
    "built-in, told its steps": lambda: told_its_steps(built_in()),
    "SongUNet": lambda: edm(SONG),
    "SongUNet, told its steps": lambda: told_its_steps(edm(SONG)),
    "ADM, classes": lambda: edm(ADM),
    "diffusers": lambda: construct(DiffusersTeacher(unet=UNET2D)),
}


def trained(denoiser: NetDenoiser) -> NetDenoiser:
    """The denoiser with every weight moved, as training leaves none at the zero it may have started from."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=draw)
    return denoiser.eval()


@pytest.mark.parametrize("length", ["one step", "few steps"])
@pytest.mark.parametrize("kind", NETS)
def test_the_card_s_example_makes_the_images_that_the_stage_makes(
    kind: str, length: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the samples of the stage `samples`, whose sampler is told the number of steps if the net takes it."""
    student = trained(NETS[kind]())
    monkeypatch.chdir(tmp_path)
    facts: StudentSampling = ONE_STEP if length == "one step" else few_steps(student.step_condition)
    save_denoiser("student.safetensors", student, sampling=facts.model_dump(mode="json"))
    exec(compile(example(), "card", "exec"), {})
    with Image.open("samples.png") as file:
        shown = np.asarray(file)
    ways = student_sampling("student.safetensors").samplers(None, [1.0])
    drawn = sample(student, ways[0], range(16), student.image_shape, student.n_classes)
    pixels = (drawn * 127.5 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).flatten(0, 1).squeeze(-1).numpy()
    assert np.array_equal(shown, pixels) and pixels.std() > 0
    if student.step_condition and length == "few steps":
        other = few_steps(False).samplers(None, [1.0])
        assert not torch.equal(drawn, sample(student, other[0], range(16), student.image_shape, student.n_classes))


def test_the_example_of_points_writes_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = build(MLPParameters(kind="mlp", width=16, layers=1), 0.5)
    monkeypatch.chdir(tmp_path)
    save_denoiser("student.safetensors", student, sampling=ONE_STEP.model_dump(mode="json"))
    exec(compile(example(of_points=True), "card", "exec"), {})
    points = np.loadtxt("samples.csv", delimiter=",")
    assert points.shape == (16, 2) and np.isfinite(points).all() and os.path.getsize("samples.csv") > 0
