"""An imported teacher is a denoiser like any other: what the stages ask of it, its copies with a step condition, and its way in."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from edm_pickles import foreign_ema, randomised, write_checkpoint

from backtrail.data.fetched_folder import fetch_outside, fetched_files
from backtrail.data.sources import OWN_TEACHERS, SOURCES, source_of_teacher
from backtrail.denoiser import Condition
from backtrail.errors import UserError
from backtrail.nets.build import at_step_condition, build, construct, load_denoiser, save_denoiser, with_step_condition
from backtrail.nets.dhariwal import DhariwalConfiguration
from backtrail.nets.discrete_time import DiffusersTeacher
from backtrail.nets.edm import EDM, VP, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.parameters.base import section
from backtrail.parameters.net import UNetParameters
from backtrail.parameters.teacher import ImportedTeacher, TeacherSource, TrainedTeacher, teacher_section
from backtrail.sampling.sample import Sampler, sample
from backtrail.teachers.imported import check_teacher, import_teacher
from backtrail.teachers.published import PUBLISHED

SHAPE = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "model_channels": 16, "channel_mult": (1, 2), "num_blocks": 1}
NETS = {
    "songunet": SongUNetConfiguration(**SHAPE, attn_resolutions=(4,), augment_dim=9),
    "dhariwal": DhariwalConfiguration(**{**SHAPE, "model_channels": 32}, attn_resolutions=(4,), label_dim=5),
}
UNET = {"sample_size": 8, "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4}
UNET |= {"down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"]}


def edm(kind: str, preconditioning=None) -> EDMTeacher:
    return EDMTeacher(preconditioning=preconditioning or EDM(), net=NETS[kind])


def estimate(denoiser, steps: int | None = None) -> torch.Tensor:
    x = 3 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3]) if denoiser.n_classes else None
    told = torch.full((4,), float(steps)) if steps else None
    return denoiser(x, torch.tensor([0.1, 0.5, 2.0, 9.0]), Condition(labels=labels, steps=told))


def moved(denoiser, scale: float = 0.3):
    """The same net with every weight of its step condition moved off its start."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in denoiser.named_parameters():
            if "affine_step" in name or "map_step" in name:
                value.add_(scale * torch.randn(value.shape, generator=random))
    return denoiser.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", NETS)
def test_it_says_what_the_stages_ask(kind):
    denoiser = randomised(edm(kind))
    denoiser.configuration = edm(kind)
    assert (denoiser.image_shape, denoiser.step_condition) == ((3, 8, 8), False)
    assert (denoiser.n_classes, denoiser.sigma_data) == ({"songunet": 0, "dhariwal": 5}[kind], 0.5)
    images = sample(denoiser, Sampler("euler", 3), range(2), denoiser.image_shape, denoiser.conditions)
    assert images.shape == (2, 3, 8, 8) and images.isfinite().all()


@pytest.mark.parametrize("preconditioning", [EDM(), VP()], ids=["edm", "vp"])
@pytest.mark.parametrize("kind", NETS)
def test_the_step_condition_starts_as_nothing_is_written_and_folds_back(kind, preconditioning, tmp_path):
    plain = construct(edm(kind, preconditioning), seed=1).eval().requires_grad_(False)
    told = with_step_condition(plain, seed=3)
    assert told.step_condition and not plain.step_condition
    assert torch.equal(estimate(told, 5), estimate(plain)) and torch.equal(estimate(told), estimate(plain))
    assert not torch.equal(estimate(with_step_condition(plain, seed=3, random_start=True), 5), estimate(plain))

    moved(told)
    assert (estimate(told, 5) - estimate(told, 7)).norm() > 1e-4 * estimate(told, 5).norm()
    save_denoiser(tmp_path / "student.safetensors", told, {name: value.clone() for name, value in told.state_dict().items()}, step=4)
    again = load_denoiser(tmp_path / "student.safetensors")
    assert again.configuration == told.configuration and torch.equal(estimate(again, 5), estimate(told, 5))

    folded = at_step_condition(told, 5)
    assert folded.configuration == plain.configuration
    difference = estimate(folded) - estimate(told, 5)
    assert difference.norm() < 1e-5 * (estimate(told, 5) - estimate(told, 7)).norm() + 1e-5 * difference.numel() ** 0.5


def test_new_weights_are_a_function_of_the_seed():
    a, b, c = (construct(edm("songunet"), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a) and not all(torch.equal(a[name], c[name]) for name in a)


def test_a_diffusers_teacher_is_read_back_as_it_was_written(tmp_path):
    denoiser = construct(DiffusersTeacher(unet=UNET)).eval().requires_grad_(False)
    assert (denoiser.n_classes, denoiser.image_shape, denoiser.sigma_data) == (0, (3, 8, 8), 0.5)
    save_denoiser(tmp_path / "teacher.safetensors", denoiser)
    assert torch.equal(estimate(load_denoiser(tmp_path / "teacher.safetensors")), estimate(denoiser))


# --- the way in -----------------------------------------------------------------------------------------------------------------------


def test_every_teacher_that_parameters_may_name_is_in_the_registry():
    names = set(TeacherSource.__args__)
    assert names - set(OWN_TEACHERS) == {name for name in SOURCES if name.startswith("teacher-")}
    assert {f"teacher-{name}" for name in PUBLISHED} <= names


def test_a_teacher_is_fetched_listed_and_imported(tmp_path):
    configuration = edm("songunet")
    original = randomised(configuration)
    file = write_checkpoint(tmp_path / "mine.pkl", foreign_ema(original, configuration))
    notes = fetch_outside(tmp_path / "data/teacher", [source_of_teacher("own-edm")], str(file))
    assert [(entry["name"], entry["verified"]) for entry in notes["files"]] == [("teacher.pkl", "first use")]
    manifest = json.loads((tmp_path / "data/teacher/manifest.json").read_text(encoding="utf-8"))
    assert "origin" not in manifest["files"][0]
    digest = fetched_files(tmp_path / "data/teacher")["teacher.pkl"]
    imported = import_teacher("own-edm", tmp_path / "data/teacher")
    assert imported.configuration == configuration and torch.equal(estimate(imported), estimate(original))

    again = fetch_outside(tmp_path / "again", [source_of_teacher("own-edm")], str(file), {"teacher.pkl": digest})
    assert again["files"][0]["verified"] == "pinned"
    with pytest.raises(UserError, match=r"has sha256 \w+, expected 0000"):
        fetch_outside(tmp_path / "other", [source_of_teacher("own-edm")], str(file), {"teacher.pkl": "0" * 64})
    with pytest.raises(UserError, match=r"sha256 names other\.pkl, which is not fetched here; files: teacher\.pkl"):
        fetch_outside(tmp_path / "other", [source_of_teacher("own-edm")], str(file), {"other.pkl": digest})


def test_a_diffusers_teacher_is_fetched_and_imported(tmp_path):
    net, folder = UNet2DModel(**UNET), tmp_path / "mine"
    net.save_pretrained(folder)
    DDPMScheduler(beta_end=0.03).save_pretrained(folder)
    fetch_outside(tmp_path / "teacher", [source_of_teacher("own-diffusers")], str(folder))
    teacher = import_teacher("own-diffusers", tmp_path / "teacher")
    assert teacher.configuration.beta_end == 0.03 and teacher.image_shape == (3, 8, 8)
    assert all(torch.equal(teacher.net.state_dict()[name], value) for name, value in net.state_dict().items())


def test_the_teacher_of_another_suite_is_fetched_and_imported_as_it_is(tmp_path):
    original = build(UNetParameters(resolution=16, n_classes=10), 0.5)
    save_denoiser(tmp_path / "mine/teacher.safetensors", original)
    fetch_outside(tmp_path / "teacher", [source_of_teacher("own-backtrail")], str(tmp_path / "mine"))
    teacher = import_teacher("own-backtrail", tmp_path / "teacher")
    assert teacher.configuration == original.configuration
    assert all(torch.equal(teacher.state_dict()[name], value) for name, value in original.state_dict().items())
    save_denoiser(tmp_path / "teacher/teacher.safetensors", with_step_condition(original))
    with pytest.raises(UserError, match="told its number of steps"):
        import_teacher("own-backtrail", tmp_path / "teacher")


def test_another_network_under_a_published_name_is_refused(tmp_path):
    configuration = edm("songunet")
    (tmp_path / "teacher").mkdir()
    name = "edm-cifar10-32x32-uncond-vp"
    write_checkpoint(tmp_path / f"teacher/{name}.pkl", foreign_ema(randomised(configuration), configuration))
    with pytest.raises(UserError, match=f"another network than the published teacher-{name}"):
        import_teacher(f"teacher-{name}", tmp_path / "teacher")


def test_nothing_to_fetch_leaves_a_list_without_files(tmp_path):
    assert fetch_outside(tmp_path / "teacher", []) == {"files": []} and fetched_files(tmp_path / "teacher") == {}


def test_a_teacher_of_other_data_is_refused():
    denoiser = randomised(edm("dhariwal"))
    check_teacher(denoiser, (3, 8, 8), 5)
    with pytest.raises(UserError, match=r"for images of shape \[3, 8, 8\], .* give \[1, 8, 8\]"):
        check_teacher(denoiser, (1, 8, 8), 5)
    with pytest.raises(UserError, match="knows 5 classes, the data set has 10"):
        check_teacher(denoiser, (3, 8, 8), 10)
    check_teacher(randomised(edm("songunet")), (3, 8, 8), 10)  # an unconditional one is for any classes


def test_the_section_is_of_either_kind(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("teacher: {source: own-edm, local: mine.pkl}\n", encoding="utf-8")
    assert teacher_section(file) == ImportedTeacher(source="own-edm", local="mine.pkl")
    file.write_text("teacher: {steps: 1, batch: 2, optimiser: {lr: 0.1}, average: {half_life: 3.0}, local: data/local}\n", encoding="utf-8")
    assert teacher_section(file) == section(TrainedTeacher, "teacher", file)
