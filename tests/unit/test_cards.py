"""The example in a student's model card is run as it stands, with torch alone, for every kind of net in the house."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler, UNet2DModel
from packaging.requirements import Requirement
from PIL import Image

from backtrail.data.sources import _EDM_LICENCE
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.export import standalone
from backtrail.export.cards import _quality, example, pipeline_example, teacher_licence
from backtrail.export.program import Programs
from backtrail.ledger.ledger import Ledger
from backtrail.nets.build import build, construct, save_denoiser, with_step_condition
from backtrail.nets.dhariwal import DhariwalConfiguration
from backtrail.nets.discrete_time import DiffusersTeacher
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.parameters.net import MLPParameters, UNetParameters
from backtrail.parameters.sampling import Schedule
from backtrail.randomness import image_noise
from backtrail.sampling.sample import sample
from backtrail.sampling.student import FewStep, OneStep, StudentSampling
from sampled import slow_after

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


@pytest.fixture(scope="module")
def torch_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from that holds torch and what torch requires, and neither this package nor its other requirements."""
    return alone(tmp_path_factory.mktemp("torch-alone"), "torch")


def alone(folder: Path, *packages: str) -> Path:
    """Links to these packages and to what they require, in a folder."""
    left, seen = list(packages), set()
    while left:
        name = left.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:  # for another system, or an extra
            continue
        if name in seen:
            continue
        seen.add(name)
        needed = [Requirement(text) for text in found.requires or []]
        left += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(found.locate_file(top))
    return folder


def run_example(folder: Path, text: str, path: Path) -> None:
    (folder / "example.py").write_text(text, encoding="utf-8")
    environment = {"PYTHONPATH": str(path), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-S", "example.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_torch_alone_is_alone(torch_alone: Path) -> None:
    for name in ("backtrail", "numpy", "PIL", "safetensors", "pydantic", "yaml"):
        done = subprocess.run([sys.executable, "-S", "-c", f"import {name}"], env={"PYTHONPATH": str(torch_alone)}, capture_output=True)
        assert done.returncode == 1 and b"ModuleNotFoundError" in done.stderr


def exported(folder: Path, student: NetDenoiser, facts: StudentSampling, programs: Programs) -> None:
    save_denoiser(folder / "student.safetensors", student, sampling=facts.model_dump(mode="json"))
    programs.write(folder / "student.safetensors", folder)


@pytest.fixture(scope="module")
def programs() -> Programs:
    return Programs()


# One step is another plan for the same program: a net with labels, one that is told its steps, and one of the library will do.
LENGTHS = [
    *((kind, "few steps") for kind in ("SongUNet, told its steps", "diffusers", "built-in", "built-in, classes")),
    *((kind, "one step") for kind in ("built-in, classes", "SongUNet, told its steps", "diffusers")),
    *((kind, "few steps") for kind in ("built-in, told its steps", "SongUNet", "ADM, classes")),
]


def test_a_program_says_what_it_cannot_draw(tmp_path: Path, programs: Programs) -> None:
    exported(tmp_path, trained(NETS["built-in, classes"]()), ONE_STEP, programs)
    done = subprocess.run([sys.executable, "sample.py", "--nfe", "9"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.endswith("--nfe is one of 1\n") and not (tmp_path / "samples.png").exists()


@pytest.mark.parametrize(
    ("source", "licence"),
    [
        ("", None),
        ("own-backtrail", "yours to know"),  # taken over from a suite that had taken it over itself
        ("own-edm", "yours to know"),
        ("teacher-edm-cifar10-32x32-uncond-vp", _EDM_LICENCE),
        ("x", "that of x, yours to know"),
    ],
)
def test_students_of_an_imported_teacher_are_bound_by_what_it_was_made_of(source: str, licence: str | None, tmp_path: Path) -> None:
    """Another suite's teacher.safetensors says in its header what that suite had imported."""
    facts = {"source": source} if source else {}
    save_denoiser(tmp_path / "data/teacher/teacher.safetensors", trained(NETS["built-in, classes"]()), **facts)
    assert teacher_licence(Ledger(tmp_path, {}, {}, {"teacher": {"source": "own-backtrail"}})) == licence


def test_students_of_a_teacher_that_is_not_here_get_no_card_that_says_they_are_free(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data/teacher/teacher.safetensors is not here, .* `dvc repro fetch-teacher`"):
        teacher_licence(Ledger(tmp_path, {}, {}, {"teacher": {"source": "own-backtrail"}}))
    assert teacher_licence(Ledger(tmp_path, {}, {}, {"teacher": {"steps": 3}})) is None  # trained here


def test_a_card_shows_every_set_that_was_measured_under_guidance_too() -> None:
    """Of two evaluations a guided step of four is a step of two, which the student was trained for; the second metric is of one set."""
    values = {
        "student": {"nfe2": {"fd": 3.0}, "nfe3": {"fd": 2.0}},
        "student-w1.5": {"nfe4": {"fd": 1.25, "clip_score": 0.5}},
    }
    measured = {"values": values, "trained_nfe": [2], "protocol": [{"metric": "fd", "n_images": 8}]}
    assert list(_quality(measured)) == [
        "| NFE | guidance | fd | clip_score |",
        "| --- | --- | --- | --- |",
        "| 2 | none | 3 |  |",
        "| 3 (untrained) | none | 2 |  |",
        "| 4 | 1.5 | 1.25 | 0.5 |",
        "",
        "- fd: n_images 8",
    ]
    del values["student-w1.5"]
    assert list(_quality(measured))[:3] == ["| NFE | fd |", "| --- | --- |", "| 2 | 3 |"]
    assert [line for line in _quality({"values": {"student-w2": {"nfe4": {"fd": 1.0}}}, "trained_nfe": [2], "protocol": []})][2:3] == [
        "| 4 | 2 | 1 |"
    ]
    (said,) = _quality({"values": {}, "protocol": []})
    assert said.startswith("Not measured")


@pytest.mark.parametrize(("kind", "length"), slow_after(2, LENGTHS))
def test_a_program_makes_the_images_that_the_stage_makes(kind: str, length: str, tmp_path: Path, programs: Programs) -> None:
    """Against the samples of the stage `samples`, whose sampler is told the number of steps if the net takes it."""
    student = trained(NETS[kind]())
    facts: StudentSampling = ONE_STEP if length == "one step" else few_steps(student.step_condition)
    exported(tmp_path, student, facts, programs)
    program, about = standalone.load(tmp_path)
    for way in facts.samplers(None, [1.0]):
        drawn = sample(student, way, range(3, 7), student.image_shape, student.conditions)
        found = standalone.draw(program, about, range(3, 7), way.nfe)
        # The library's own network orders some sums differently when it is traced.
        torch.testing.assert_close(found, drawn, **({"rtol": 1e-4, "atol": 1e-4} if kind == "diffusers" else {"rtol": 0, "atol": 0}))
        assert drawn.std() > 0
    if student.step_condition and length == "few steps":
        untold = few_steps(False).samplers(None, [1.0])[0]
        other = sample(student, untold, range(3, 7), student.image_shape, student.conditions)
        assert not torch.equal(standalone.draw(program, about, range(3, 7), untold.nfe), other)


@pytest.mark.parametrize("kind", slow_after(1, reversed(NETS)))
def test_the_cards_example_needs_torch_alone(kind: str, tmp_path: Path, torch_alone: Path, programs: Programs) -> None:
    student = trained(NETS[kind]())
    facts = few_steps(student.step_condition)
    exported(tmp_path, student, facts, programs)
    run_example(tmp_path, example(facts.trained_nfe[0]), torch_alone)
    with Image.open(tmp_path / "samples.png") as file:
        shown = np.asarray(file)
    drawn = sample(student, facts.samplers(None, [1.0])[0], range(16), student.image_shape, student.conditions)
    pixels = (drawn * 127.5 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).flatten(0, 1).squeeze(-1).numpy()
    assert np.array_equal(shown, pixels) and pixels.std() > 0


@pytest.mark.slow
def test_the_example_of_points_writes_points(tmp_path: Path, torch_alone: Path) -> None:
    student = build(MLPParameters(kind="mlp", width=16, layers=1), 0.5)
    exported(tmp_path, student, ONE_STEP, Programs())
    run_example(tmp_path, example(1, of_points=True), torch_alone)
    points = np.loadtxt(tmp_path / "samples.csv", delimiter=",")
    assert points.shape == (16, 2) and np.isfinite(points).all() and points.std() > 0


@pytest.mark.parametrize("facts", [ONE_STEP, FewStep(schedule=Schedule(t_max=20.0), afs=False, step_condition=False, num_steps=[4])])
def test_diffusers_loads_a_student_of_a_diffusers_teacher(facts: StudentSampling, tmp_path: Path, programs: Programs) -> None:
    """Its own network and its own Euler steps on the plan's noise levels make the student's images."""
    student = trained(NETS["diffusers"]())
    exported(tmp_path, student, facts, programs)
    unet = UNet2DModel.from_pretrained(tmp_path / "unet")
    scheduler = EulerDiscreteScheduler.from_pretrained(tmp_path / "scheduler")
    plan = standalone.load(tmp_path)[1]["plans"][str(facts.trained_nfe[0])]
    scheduler.set_timesteps(sigmas=plan["sigmas"])
    x = plan["start"] * image_noise(range(4), student.image_shape)
    with torch.no_grad():
        for time in scheduler.timesteps:
            x = scheduler.step(unet(scheduler.scale_model_input(x, time), time).sample, time, x).prev_sample
    expected = sample(student, facts.samplers(None, [1.0])[0], range(4), student.image_shape)
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-3)


FEW_STEPS = FewStep(schedule=Schedule(t_max=20.0), afs=True, step_condition=False, num_steps=[4])


@pytest.mark.parametrize("net", [UNET2D, UNET2D | {"num_class_embeds": 3}], ids=["plain", "classes"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_pipeline_of_diffusers_draws_the_students_images(prediction: str, net: dict, tmp_path: Path, programs: Programs) -> None:
    """By the library's own loader, from noise of ours: the plan is in the folder."""
    student = trained(construct(DiffusersTeacher(unet=net, prediction_type=prediction, time_map="ln-alpha")))
    exported(tmp_path, student, FEW_STEPS, programs)
    pipe = DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline=str(tmp_path), trust_remote_code=True)
    told = {"class_labels": student.conditions.of_images(range(4)).labels} if student.n_classes else {}
    drawn = pipe(noise=image_noise(range(4), student.image_shape), output_type="pt", **told).images
    way = FEW_STEPS.samplers(None, [1.0])[0]
    torch.testing.assert_close(drawn, sample(student, way, range(4), student.image_shape, student.conditions), rtol=1e-4, atol=1e-4)
    again = [pipe(batch_size=3, generator=torch.Generator().manual_seed(5), output_type="np").images for _ in range(2)]
    assert again[0].shape == (3, *student.image_shape[1:], student.image_shape[0]) and np.array_equal(*again)


@pytest.mark.parametrize("told", slow_after(1, [True, False]))
def test_the_cards_example_for_diffusers_needs_it_and_torch_alone(
    told: bool, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, programs: Programs
) -> None:
    student = trained(construct(DiffusersTeacher(unet=UNET2D, step_condition=told)))
    exported(tmp_path, student, few_steps(told), programs)
    lines = pipeline_example(tmp_path / "student.safetensors")
    code = "\n".join(lines[lines.index("```python") + 1 : lines.index("```")])
    run_example(tmp_path, code, alone(tmp_path_factory.mktemp("alone"), "torch", "diffusers"))
    assert len(list(tmp_path.glob("*.png"))) == 16
