"""`backtrail new`: what it writes fits images and teacher, passes `check` at once, and runs; what does not fit is one sentence."""

import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from click.testing import CliRunner
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from own_inputs import TINY_UNET, write_diffusers, write_edm, write_images, write_zip

from backtrail.cli import check, new
from backtrail.cli.compute_cost import forward_gflop
from backtrail.cli.measured_cost import cost_of, duration
from backtrail.errors import UserError
from backtrail.nets.build import build, save_denoiser
from backtrail.nets.edm import VE
from backtrail.parameters.net import UNetParameters
from backtrail.parameters.sampling import Schedule
from backtrail.parameters.suite import Suite, read_suite
from backtrail.teachers.recognised import READ
from backtrail.tensors import save_tensors

SIDE = 32


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for the repository's."""
    (tmp_path / "repository/workflow").mkdir(parents=True)
    (tmp_path / "repository/workflow/Snakefile").touch()
    monkeypatch.chdir(tmp_path / "repository")
    return tmp_path


def written(*arguments: object) -> tuple[Suite, list[str]]:
    """The suite that `new` wrote, which `check` accepts in its folder, and what `new` printed; the device is the CPU."""
    done = CliRunner().invoke(new.command, ["--device", "cpu", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    with chdir(Path("suites", str(arguments[0]))):
        checked = CliRunner().invoke(check.command, catch_exceptions=False)
        assert "params.yaml is valid" in checked.output
        # The lines of `check` are those of `new`.
        assert done.output.splitlines()[: len(checked.output.splitlines()) - 1] == checked.output.splitlines()[:-1]
        return read_suite(), done.output.splitlines()


def schedules(suite: Suite) -> list[Schedule]:
    """Those of the teacher's samplers and of the few-step students."""
    return [p.schedule for p in (*suite.teacher_samples.samplers.values(), *suite.few_step.values())]


def refused(*arguments: object) -> str:
    """The sentence, after which nothing is left of the suite."""
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(UserError) as error:
        CliRunner().invoke(new.command, [*map(str, arguments)], catch_exceptions=False)
    assert sorted(Path.cwd().rglob("*")) == before and "\n" not in str(error.value)
    return str(error.value)


def test_grey_images_without_classes(here: Path) -> None:
    suite, lines = written("greys", "--images", write_images(here / "grey"))
    assert lines[:3] == ["images: 500 images of 32x32 grey", "classes none", "splits train 400, test (held out) 100"]
    assert (suite.suite, suite.data.name, suite.data.resolution, suite.data.local) == ("greys", "image-folder", 16, "images")
    assert (suite.teacher.net.image_channels, suite.teacher.net.n_classes, suite.teacher.label_dropout) == (1, 0, 0.0)
    assert (suite.metrics.n_samples, suite.metrics.n_curve, suite.metrics.n_reference) == (100, 100, 400)
    assert all(sampler.guidance == 1 for sampler in suite.teacher_samples.samplers.values())
    assert suite.methods == ["diff-instruct", "disback", "trajectory", "sfd", "sfd-v"]
    assert Path("suites/greys/images").resolve() == here / "grey"
    assert str(here) not in Path("suites/greys/params.yaml").read_text(encoding="utf-8")
    assert lines[-1].strip() == "snakemake -d suites/greys --profile local"


def test_colour_images_in_classes_get_guidance(here: Path) -> None:
    suite, lines = written("rgbs", "--images", write_images(here / "rgb", n_classes=3, colour=True))
    assert lines[1] == "classes 3: class0 167, class1 167, class2 166"
    assert (suite.teacher.net.image_channels, suite.teacher.net.n_classes, suite.teacher.label_dropout) == (3, 3, 0.1)
    assert suite.teacher_samples.samplers["heun-guided"].guidance == 1.5 and suite.students["sfd"].guidance == [1.0, 1.5]


def test_a_zip_with_a_test_split_holds_nothing_out(here: Path) -> None:
    images = write_zip(here / "mine.zip", write_images(here / "rgb", n_classes=3, colour=True))
    suite, lines = written("zips", "--images", images, "--size", "full")
    assert lines[2] == "splits train 400, test 100"
    assert (suite.data.name, suite.data.local, suite.data.held_out, suite.data.resolution) == ("image-zip", "images.zip", 0, SIDE)
    assert suite.seeds == [0, 1, 2] and suite.metrics.n_samples == 100


def test_an_edm_pickle_is_distilled_with_a_step_condition(here: Path) -> None:
    images = write_images(here / "rgb", n_classes=3, colour=True)
    suite, _ = written("edms", "--images", images, "--teacher", write_edm(here / "net.pkl", label_dim=3))
    assert (suite.teacher.source, suite.teacher.local, suite.data.resolution) == ("own-edm", "teacher.pkl", 16)
    assert suite.trajectory_distillation["sfd-v"].step_condition == "zero"
    assert "heun-guided" not in suite.teacher_samples.samplers  # whether it was trained with label dropout, its file does not tell
    assert "trained with label dropout" in Path("suites/edms/params.yaml").read_text(encoding="utf-8")


def test_the_teacher_of_another_suite(here: Path) -> None:
    images = write_images(here / "rgb", n_classes=3, colour=True)
    save_denoiser(here / "built.safetensors", build(UNetParameters(image_channels=3, resolution=16, channels=[8, 8]), 0.5))
    suite, lines = written("built", "--images", images, "--teacher", here / "built.safetensors")
    assert (suite.teacher.source, suite.teacher.local, suite.data.resolution) == ("own-backtrail", "teacher.safetensors", 16)
    assert "sfd-v" in suite.methods and any("teacher.safetensors is a link" in line for line in lines)


def test_noise_levels_are_the_teachers(here: Path) -> None:
    images = write_images(here / "rgb", colour=True)
    suite, _ = written("ve", "--images", images, "--teacher", write_edm(here / "ve.pkl", VE(sigma_min=0.05, sigma_max=40.0)))
    for schedule in schedules(suite):
        assert 0.05 <= schedule.t_min < 0.051 and 39.5 < schedule.t_max <= 40
    few = DDPMScheduler(num_train_timesteps=100)  # its largest level is about 1.3
    suite, _ = written("few", "--images", images, "--teacher", write_diffusers(here / "few", few))
    levels = ((1 - few.alphas_cumprod) / few.alphas_cumprod).sqrt()
    for schedule in schedules(suite):
        assert levels[0] <= schedule.t_min < 1.02 * levels[0] and 0.98 * levels[-1] < schedule.t_max <= levels[-1]
    assert suite.score_distillation["disback"].sigma_init <= levels[-1]


def test_a_pipeline_of_diffusers_is_distilled_by_all_methods(here: Path) -> None:
    images = write_images(here / "rgb", n_classes=3, colour=True)
    suite, lines = written("pipes", "--images", images, "--teacher", write_diffusers(here / "ddpm"))
    assert (suite.teacher.source, suite.teacher.local, suite.data.resolution) == ("own-diffusers", "teacher", 16)
    assert suite.methods == ["diff-instruct", "disback", "trajectory", "sfd", "sfd-v"]
    assert any("teacher is a link" in line for line in lines)


def test_a_model_that_was_saved_without_its_pipeline(here: Path) -> None:
    """As `UNet2DModel.save_pretrained` lays it down, with the scheduler's file beside it; without one nothing says how it was trained."""
    images, folder = write_images(here / "grey", side=16), here / "unet"
    UNet2DModel(**TINY_UNET | {"sample_size": 16, "in_channels": 1, "out_channels": 1}).save_pretrained(folder)
    assert "scheduler_config.json" in refused("bare", "--images", images, "--teacher", folder)
    DDPMScheduler().save_pretrained(folder)
    suite, _ = written("bare", "--images", images, "--teacher", folder)
    assert (suite.teacher.source, suite.data.resolution) == ("own-diffusers", 16)


def test_the_suites_folder_may_hold_the_images_already(here: Path) -> None:
    images = write_images(Path("suites/mine/images"))
    written("mine", "--images", images)
    assert not images.is_symlink() and not Path("suites/mine/.gitignore").exists()


@pytest.mark.parametrize("side", [10, 18, 28, 64, 96, 100])
@pytest.mark.parametrize("size", ["tiny", "small", "full"])
def test_a_network_fits_images_of_many_sides(here: Path, side: int, size: str) -> None:
    suite, _ = written("sides", "--images", write_images(here / "sides", 50, side=side), "--size", size)
    assert side % suite.data.resolution == 0 and 8 <= suite.data.resolution <= 32
    assert suite.teacher.net.resolution == suite.data.resolution
    assert suite.classifier.batch_size == suite.metrics.n_reference == 40 and suite.data.held_out == 10


@pytest.mark.parametrize("size", ["small", "full"])
def test_a_budget_for_a_gpu_is_valid_where_there_is_none(here: Path, size: str) -> None:
    suite, lines = written("gpus", "--images", write_images(here / "sides", 50, side=64), "--size", size, "--device", "gpu")
    assert suite.data.resolution == 64 and suite.resources["train"].gpus == 1
    assert torch.cuda.is_available() or any(line.startswith("Cost on an A100") for line in lines)


def test_names_that_are_taken_or_not_allowed(here: Path) -> None:
    images = write_images(here / "grey", 50)
    written("twice", "--images", images)
    assert refused("twice", "--images", images).startswith("suites/twice/params.yaml is there already")
    for name in ("Big", "../up", "a b", "teacher"):
        assert name in refused(name, "--images", images)
    with chdir(here):
        assert "run `backtrail new` in the repository's folder" in refused("other", "--images", images)


def test_images_that_cannot_be_read(here: Path) -> None:
    assert "nothing is there" in refused("mine", "--images", here / "nowhere")
    (here / "empty").mkdir()
    assert "holds no image" in refused("mine", "--images", here / "empty")
    (here / "text.zip").write_text("no zip", encoding="utf-8")
    assert "text.zip" in refused("mine", "--images", here / "text.zip")
    assert "49 images were found, expected at least 50" in refused("mine", "--images", write_images(here / "few", 49))
    assert "no even divisor" in refused("mine", "--images", write_images(here / "odd", 50, side=31))
    write_images(here / "split/train", 50)
    write_images(here / "split/test", 9)
    assert "9 test images were found" in refused("mine", "--images", here / "split")
    (here / "few/000.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    assert "000.png" in refused("mine", "--images", here / "few")
    Image.fromarray(np.zeros((16, 20), np.uint8)).save(here / "odd/000.png")
    assert "000.png is 16x20, expected a square" in refused("mine", "--images", here / "odd")


def test_teachers_that_do_not_fit(here: Path) -> None:
    images = write_images(here / "rgb", 60, n_classes=3, colour=True)
    assert "nothing is there" in refused("mine", "--images", images, "--teacher", here / "nowhere")
    large = write_edm(here / "large.pkl", img_resolution=64)
    assert "the teacher is for 64x64 pixels, the images have 32x32" in refused("mine", "--images", images, "--teacher", large)
    grey = write_diffusers(here / "grey", in_channels=1, out_channels=1)
    assert "the teacher is for images of shape [1, 16, 16]" in refused("mine", "--images", images, "--teacher", grey)
    classes = write_diffusers(here / "classes", num_class_embeds=5)
    assert "the teacher knows 5 classes, the data set has 3" in refused("mine", "--images", images, "--teacher", classes)
    assert "is missing" in refused("mine", "--images", images, "--teacher", images)
    pipeline = write_diffusers(here / "pipeline")
    for name in ("diffusion_pytorch_model.safetensors", "renamed.pkl"):  # its content says what it is
        weights = (pipeline / "unet/diffusion_pytorch_model.safetensors").rename(pipeline / "unet" / name)
        sentence = refused("mine", "--images", images, "--teacher", weights)
        assert f"{weights} is one file of a diffusers pipeline" in sentence and sentence.endswith(
            "name the pipeline's folder, with unet/ and scheduler/ in it (own-diffusers)"
        )
    (here / "text.pkl").write_text("no pickle", encoding="utf-8")
    assert "text.pkl" in refused("mine", "--images", images, "--teacher", here / "text.pkl")


def test_classes_without_training_images(here: Path) -> None:
    (here / "split").mkdir()
    for n, place in ((60, "train/a"), (20, "test/b")):
        write_images(here / "split" / place, n)
    assert refused("mine", "--images", here / "split").startswith(f"{here / 'split'}: there are no training images of class b, only of a,")
    write_images(here / "split/train/b", 60)
    written("mine", "--images", here / "split")


def test_folders_that_are_numbers_in_the_order_of_text(here: Path) -> None:
    """A teacher that was trained elsewhere counts them as numbers; one of another suite has learned them as they are told here."""
    images = here / "numbers"
    for number in (1, 2, 10):
        write_images(images / str(number), 60, colour=True)
    said = "labels go by the text of the folders' names, not by the numbers: 1 -> 0, 10 -> 1, 2 -> 2; zeros"
    _, lines = written("numbers", "--images", images)
    assert any(line.startswith(said) for line in lines)
    written("unconditional", "--images", images, "--teacher", write_edm(here / "plain.pkl"))
    conditional = write_edm(here / "net.pkl", label_dim=3)
    assert refused("mine", "--images", images, "--teacher", conditional).startswith(
        f"--teacher {conditional} would be told other classes than it was trained on: {said}"
    )
    pipeline = write_diffusers(here / "classes", num_class_embeds=3)
    assert "would be told other classes" in refused("mine", "--images", images, "--teacher", pipeline)
    net = UNetParameters(image_channels=3, resolution=16, channels=[8, 8], n_classes=3)
    save_denoiser(here / "built.safetensors", build(net, 0.5))
    written("built", "--images", images, "--teacher", here / "built.safetensors")
    for digit in ("1", "2"):
        (images / digit).rename(images / f"0{digit}")
    _, lines = written("ordered", "--images", images, "--teacher", conditional)
    assert not any(line.startswith("labels go by") for line in lines)


def test_a_safetensors_file_that_is_no_teacher_is_called_what_it_is(here: Path) -> None:
    """Nothing is to be deleted or run again: the file is the user's only one."""
    images, path = write_images(here / "rgb", 60, colour=True), here / "x.safetensors"

    def sentence() -> str:
        said = refused("mine", "--images", images, "--teacher", path)
        assert "delete" not in said and "dvc" not in said and str(path) in said
        return said

    safetensors.torch.save_file({"w": torch.ones(2)}, path)
    assert "is a file that backtrail did not write" in sentence() and READ in sentence()
    save_tensors(path, {"w": torch.ones(2)}, {"classifier": {}})
    assert "is a file of backtrail's that holds no denoiser: name the teacher.safetensors" in sentence()
    save_denoiser(path, build(UNetParameters(image_channels=3, resolution=16, channels=[8, 8]), 0.5))
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + b"\0\0\0\1")
    assert "was damaged after it was written" in sentence() and "get it again from the suite" in sentence()
    path.write_bytes(whole[:-4])
    assert "is no whole safetensors file" in sentence() and "get it again from the suite" in sentence()


def test_the_operations_are_those_of_plan_and_the_time_follows_the_speed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a made-up machine of 1 TFLOP/s the teacher takes 3 x steps x batch forwards of operations in as many seconds."""
    suite, _ = written("greys", "--images", write_images(here / "grey", 50))
    monkeypatch.setattr("backtrail.cli.measured_cost.tflops_of", lambda *_: 1e-3)
    with chdir("suites/greys"):
        lines = cost_of(suite, None, "cpu").lines()
    minutes = float(next(line for line in lines if line.split()[0] == "teacher").split()[-1])
    net = build(suite.teacher.net, 0.5)
    assert minutes == pytest.approx(3 * suite.teacher.steps * suite.teacher.batch * forward_gflop(net) / 60, abs=0.05)
    convolution = build(UNetParameters(channels=[96], attention_levels=[], stem=1, resolution=8), 0.5)
    twice = build(UNetParameters(channels=[96], attention_levels=[], stem=1, resolution=16), 0.5)
    assert forward_gflop(twice) == pytest.approx(4 * forward_gflop(convolution), rel=0.01)
    assert [duration(m) for m in (0.2, 30.4, 600)] == ["a minute", "30 minutes", "10.0 hours"]


@pytest.mark.parametrize(("tflops", "size"), [(1.0, "small"), (1e-3, "tiny")])
def test_a_first_look_is_as_large_as_a_quarter_of_an_hour_allows(
    here: Path, tflops: float, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backtrail.cli.measured_cost.tflops_of", lambda *_: tflops)
    images = write_images(here / "rgb", colour=True)
    suite, lines = written("looks", "--images", images)
    assert f", cpu {size}" in next(line for line in lines if line.startswith("suites/looks/params.yaml: "))
    told = next(line for line in lines if line.endswith(" stages at once."))
    with chdir("suites/looks"):
        cost = cost_of(suite, None, "cpu")
    assert told == f"About {duration((cost.minutes + 39 * 8 / 60) / cost.at_once)} in all, with {cost.at_once} stages at once."
    asked, _ = written("asked", "--images", images, "--size", "small")
    assert (asked.score_distillation == suite.score_distillation) == (size == "small")
    assert suite.score_distillation["disback"].updates == {"small": 40, "tiny": 20}[size]


def test_a_size_that_a_device_does_not_have(here: Path) -> None:
    sentence = refused("mine", "--images", write_images(here / "grey"), "--size", "tiny", "--device", "gpu")
    assert sentence == "--size tiny is not offered for a GPU: expected one of small, full"


def test_comments_name_what_other_sizes_have(here: Path) -> None:
    """The comment beside a number of `small` is the number that `full` writes, and the other way round."""
    images = write_images(here / "grey")
    small, _ = written("small", "--images", images, "--size", "small")
    full, _ = written("full", "--images", images, "--size", "full")
    text = Path("suites/small/params.yaml").read_text(encoding="utf-8")
    assert f"  steps: {small.teacher.steps} # cpu tiny 200, cpu full {full.teacher.steps}, gpu small " in text
    text = Path("suites/full/params.yaml").read_text(encoding="utf-8")
    assert (
        f"    updates: {full.score_distillation['disback'].updates} # cpu tiny 20, cpu small {small.score_distillation['disback'].updates},"
        in text
    )
    values = yaml.safe_load(text)
    assert set(Suite.model_fields) - {"second_stage", "scaling"} == set(values)
