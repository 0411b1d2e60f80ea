"""`backtrail images`: the images of the named seeds, to the bit those of the suite's own archives, of every kind of model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

from backtrail.cli.images import check_finite, command, seed_range
from backtrail.data.dataset import to_uint8
from backtrail.errors import UserError
from backtrail.nets.build import BuiltIn, construct, load_denoiser, save_denoiser
from backtrail.nets.discrete_time import DiffusersTeacher
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.parameters.net import UNetParameters
from backtrail.parameters.sampling import Schedule
from backtrail.sampling.sample import Sampler, sample
from backtrail.sampling.student import FewStep, OneStep
from unit.refusals import as_yaml

SIDE = 8
UNET = {"sample_size": SIDE, "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4}
UNET |= {"down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"]}
SHAPE = {"img_resolution": SIDE, "in_channels": 3, "out_channels": 3, "model_channels": 16, "channel_mult": (1, 2), "num_blocks": 1}
SAMPLERS = {
    "heun": {"solver": "heun", "num_steps": [3]},
    "afs": {"solver": "heun", "num_steps": [3], "afs": True},
    "guided": {"solver": "euler", "num_steps": [3], "guidance": 2.0},
}
SEEDS = range(60, 70)  # over the end of a chunk


def built_in(step_condition: bool = False, classes: int = 3) -> BuiltIn:
    net = UNetParameters(resolution=SIDE, channels=[8], attention_levels=[], n_classes=classes, step_condition=step_condition)
    return BuiltIn(sigma_data=0.5, net=net)


MODELS = {
    "results/teacher/teacher.safetensors": (built_in(), {}),
    "results/students/one/seed0/student.safetensors": (built_in(), {"sampling": OneStep(sigma_init=2.5)}),
    "results/students/one/seed10/student.safetensors": (built_in(), {"sampling": OneStep(sigma_init=2.5)}),
    "results/students/one/seed0-old/student.safetensors": (built_in(), {"sampling": OneStep(sigma_init=2.5)}),  # a copy, and no seed
    "results/students/few/seed2/student.safetensors": (
        built_in(step_condition=True),
        {"sampling": FewStep(schedule=Schedule(), afs=True, step_condition=True, num_steps=[4, 5])},
    ),
    "edm.safetensors": (EDMTeacher(preconditioning=EDM(), net=SongUNetConfiguration(**SHAPE)), {}),
    "diffusers.safetensors": (DiffusersTeacher(unet=UNET), {}),
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of every kind, whose last layers are not the zeros that they start from."""
    folder = tmp_path_factory.mktemp("images")
    for i, (file, (configuration, facts)) in enumerate(MODELS.items()):
        denoiser = construct(configuration, seed=i)
        random = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for value in denoiser.parameters():
                value.add_(0.1 * torch.randn(value.shape, generator=random))
        save_denoiser(folder / file, denoiser, **{key: of.model_dump(mode="json") for key, of in facts.items()})
    samples = {"reference": "heun", "samplers": SAMPLERS}
    (folder / "params.yaml").write_text(
        as_yaml(
            {
                "runtime": {"threads": 1, "device": "cpu"},
                "teacher_samples": samples,
                "data": {"local": "photos"},
                "teacher": {"local": "mine"},
            }
        ),
        encoding="utf-8",
    )
    return folder


def invoke(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def drawn(file: Path, sampler: Sampler) -> Tensor:
    """The images of SEEDS out of an archive, as the stages draw one: from seed 0 on."""
    denoiser = load_denoiser(file)
    return to_uint8(sample(denoiser, sampler, range(SEEDS.stop), denoiser.image_shape, denoiser.conditions))[SEEDS.start :]


def shown(path: Path) -> np.ndarray:
    """[C, H, W] of a PNG file."""
    pixels = np.array(Image.open(path))
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


FEW = Sampler("euler", 4, afs=True, step_condition=True)


@pytest.mark.parametrize(
    ("arguments", "file", "sampler"),
    [
        (["one"], "results/students/one/seed0/student.safetensors", Sampler(sigma_init=2.5)),
        (["one", "--nfe", "2", "--guidance", "2"], "results/students/one/seed0/student.safetensors", Sampler(sigma_init=2.5, guidance=2.0)),
        (["one/seed10"], "results/students/one/seed10/student.safetensors", Sampler(sigma_init=2.5)),
        (["few"], "results/students/few/seed2/student.safetensors", FEW),
        (["few/seed2", "--nfe", "6"], "results/students/few/seed2/student.safetensors", Sampler("euler", 8, afs=True, step_condition=True)),
        (["teacher"], "results/teacher/teacher.safetensors", Sampler("heun", 3)),
        (["teacher", "--nfe", "8"], "results/teacher/teacher.safetensors", Sampler("heun", 5)),
        (["teacher", "--sampler", "afs", "--nfe", "7"], "results/teacher/teacher.safetensors", Sampler("heun", 5, afs=True)),
        (["teacher", "--sampler", "guided"], "results/teacher/teacher.safetensors", Sampler("euler", 3, guidance=2.0)),
        (["edm.safetensors", "--nfe", "4"], "edm.safetensors", Sampler("heun", 3)),
        (["diffusers.safetensors", "--sampler", "guided", "--guidance", "1"], "diffusers.safetensors", Sampler("euler", 3)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_image_i_is_the_one_of_seed_i(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], file: str, sampler: Sampler
) -> None:
    done = invoke(suite, monkeypatch, *arguments, "--seeds", "60-69", "--out", str(tmp_path / "images"))
    within = load_denoiser(suite / file).noise_range
    expected = drawn(suite / file, Sampler(**{**vars(sampler), "within": within}) if "student" not in file else sampler)
    assert [path.name for path in sorted((tmp_path / "images").iterdir())] == [f"{seed:06d}.png" for seed in SEEDS]
    for seed, image in zip(SEEDS, expected, strict=True):
        assert np.array_equal(shown(tmp_path / f"images/{seed:06d}.png"), image.numpy())
    assert f"seeds 60 to 69 of {file}" in done.output and f"NFE {sampler.nfe}, guidance {sampler.guidance:g}" in done.output
    assert len(np.unique(expected.numpy())) > 10  # it is pictures that agree, not blanks


def test_a_grid_holds_them_row_by_row(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    invoke(suite, monkeypatch, "edm.safetensors", "--seeds", "60-69", "--nfe", "4", "--out", str(tmp_path / "grid.png"))
    grid, within = shown(tmp_path / "grid.png"), load_denoiser(suite / "edm.safetensors").noise_range
    assert grid.shape == (3, 3 * (SIDE + 2) + 2, 4 * (SIDE + 2) + 2)
    for i, image in enumerate(drawn(suite / "edm.safetensors", Sampler("heun", 3, within=within))):
        top, left = 2 + (i // 4) * (SIDE + 2), 2 + (i % 4) * (SIDE + 2)
        assert np.array_equal(grid[:, top : top + SIDE, left : left + SIDE], image.numpy())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "there is no nope here: name teacher, few/seed2, one/seed0, one/seed10, or a file of weights"),
        (["one/seed1"], "there is no one/seed1 here"),
        (["params.yaml"], "params.yaml is not a whole safetensors file"),
        (["one", "--nfe", "2"], "NFE 2 at guidance 1 cannot be; it makes 1 alone"),
        (["few", "--nfe", "3", "--guidance", "2"], "NFE 3 at guidance 2 cannot be; it makes a multiple of 2"),
        (["teacher", "--nfe", "5"], "heun makes 2 evaluations a step at guidance 1: NFE 6 is near, 5 cannot be"),
        (["teacher", "--sampler", "x"], "teacher_samples has no sampler x; it has heun, afs, guided"),
        (["one", "--sampler", "heun"], "--sampler is for a teacher; results/students/one/seed0/student.safetensors is a student"),
        (["teacher", "--out", "grid.jpg"], "--out grid.jpg: expected a .png file, or a folder"),
        (["teacher", "--out", "params.yaml"], "--out params.yaml: expected a .png file, or a folder"),
        (["teacher", "--out", "photos"], "--out photos is among the files that params.yaml names as yours"),
        (["teacher", "--out", "mine/in/it"], "--out mine/in/it is among the files that params.yaml names as yours"),
        (["diffusers.safetensors", "--guidance", "2"], "needs a denoiser that was trained on classes and on their absence"),
        (["teacher", "--seeds", "5-1"], "--seeds is one seed or FIRST-LAST"),
        (["teacher", "--seeds", "9" * 5000], "--seeds is one seed or FIRST-LAST, of at most 18 digits each, for example 0-63; found '999"),
        (["teacher", "--seeds", f"0-{'9' * 5000}"], "--seeds is one seed or FIRST-LAST"),
        (["teacher", "--guidance", "nan"], "--guidance is a weight from 0 to 1000; found nan"),
        (["teacher", "--guidance", "inf"], "--guidance is a weight from 0 to 1000; found inf"),
        (["one", "--guidance", "1e40"], "--guidance is a weight from 0 to 1000; found 1e+40"),
        (["teacher", "--guidance", "-1"], "--guidance is a weight from 0 to 1000; found -1"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_in_a_sentence(suite: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        invoke(suite, monkeypatch, *arguments)
    assert message in str(refused.value) and not (suite / "images.png").exists()
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_no_picture_is_made_of_what_is_no_number(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As uint8, NaN is 0: images of a network that has run away would look black, and like its own."""
    denoiser = load_denoiser(suite / "results/teacher/teacher.safetensors")
    with torch.no_grad():
        for value in denoiser.parameters():
            value.fill_(1e38)
    save_denoiser(tmp_path / "away.safetensors", denoiser)
    with pytest.raises(
        UserError, match=r"away\.safetensors makes values that are not finite in 10 of 10 images, the first of seed 60: lower"
    ):
        invoke(suite, monkeypatch, str(tmp_path / "away.safetensors"), "--seeds", "60-69", "--out", str(tmp_path / "images.png"))
    assert not (tmp_path / "images.png").exists()
    made = torch.zeros(10, 3, SIDE, SIDE)
    made[4, 2, 1, 0] = torch.inf
    with pytest.raises(UserError, match="in 1 of 10 images, the first of seed 64"):
        check_finite(made, SEEDS, Path("weights"))


def test_seed_ranges() -> None:
    assert (seed_range("7"), seed_range("0-63")) == (range(7, 8), range(64))
