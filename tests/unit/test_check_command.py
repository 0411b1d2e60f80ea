"""`backtrail check` on a suite's own files: what is understood is printed, what a stage would refuse later is refused here."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from own_inputs import write_edm
from PIL import Image
from snakemake.exceptions import WorkflowError

import dvc_plan
from backtrail.cli.own_files import check_own_files, check_text_teacher
from backtrail.data.fetched_folder import fetch_outside
from backtrail.data.folders import open_folder
from backtrail.data.images import _drawn
from backtrail.data.sources import source_of_teacher
from backtrail.data.text_teacher import PARTS, fetched
from backtrail.errors import UserError
from backtrail.layout import TEACHER
from backtrail.metrics.classifier import save_classifier
from backtrail.nets.classifier import Classifier
from backtrail.parameters.suite import read_suite
from backtrail.tensors import save_tensors
from unit.refusals import self_contained

ROOT = Path(__file__).parents[2]
N_TEST = 30


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 100 grey images of 16x16 in two classes."""
    rng = np.random.default_rng(0)
    for k in range(100):
        place = tmp_path / "mine" / ("cat" if k % 4 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(place / f"{k}.png")
    (tmp_path / "mine/notes.txt").write_text("hello", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parameters(**changes: object) -> dict:
    """The built-in suite for those images; a dotted key sets one value."""
    p = self_contained()
    p["data"] = {"name": "image-folder", "resolution": 16, "local": "mine", "held_out": N_TEST}
    p["teacher"]["net"]["n_classes"] = 2
    p["classifier"]["batch_size"] = 32
    p["metrics"] |= {"n_samples": N_TEST, "n_curve": 20}
    for key, value in changes.items():
        *sections, last = key.split("__")
        part = p
        for name in sections:
            part = part[name]
        part[last] = value
    return p


def plain(p: dict) -> dict:
    """Neither guidance nor a step condition."""
    p["teacher_samples"]["samplers"].pop("heun-guided")
    for method in p["trajectory_distillation"].values():
        method |= {"step_condition": "none", "num_steps": [4]}
    p["students"] = {name: {} for name in p["students"]}
    p["report"] = {key: value for key, value in p["report"].items() if key not in ("axes", "sampler_axes")}
    return p


def checked(p: dict) -> list[str]:
    Path("params.yaml").write_text(yaml.safe_dump(p), encoding="utf-8")
    return check_own_files(read_suite())


def test_what_was_understood_is_printed_without_torch(inside: Path) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(parameters()), encoding="utf-8")
    code = "import sys; from backtrail.cli.check import command; command([], standalone_mode=False); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:4] == [
        "mine: 100 images of 16x16 grey",
        "classes 2: cat 75, dog 25",
        "splits train 70, test (held out) 30",
        "left out 1 that are no image that is read (.txt 1)",
    ]
    assert "params.yaml is valid" in done.stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__held_out": 0}, "ask for 30 test images, and data.held_out = 0 of them are put aside: set data.held_out"),
        ({"metrics__n_samples": 1000}, "metrics.n_samples and metrics.n_curve ask for 1000 test images"),
        ({"metrics__n_floor": 31}, "metrics.n_floor and metrics.n_curve ask for 31 test images"),
        ({"metrics__n_curve": 32}, "ask for 32 test images"),
        ({"data__held_out": 100}, "at least one must be left to train on"),
        ({"data__local": "nowhere"}, "data.local = 'nowhere': nothing is there"),
        ({"teacher__local": "nowhere"}, "teacher.local = 'nowhere': nothing is there"),
        ({"metrics__inception": {"local": "nowhere"}}, "metrics.inception.local = 'nowhere': nothing is there"),
        ({"data__local": "mine/notes.txt"}, "expected the folder of your images"),
        ({"data__name": "image-zip"}, "expected the zip of your images"),
        ({"teacher__net__n_classes": 10}, "teacher.net.n_classes = 10: the images have 2 classes"),
        ({"teacher__net__image_channels": 3}, "teacher.net.image_channels = 3: the images have 1"),
        ({"classifier__batch_size": 71}, "classifier.batch_size = 71: there are only 70 images to train on"),
        ({"score_distillation__diff-instruct__sigma_init": {"t": 399}}, "diff-instruct.sigma_init: {t: 399} names a time step"),
        ({"data__resolution": 32, "teacher__net__resolution": 32}, "does not divide the images' 16x16 pixels"),
    ],
)
def test_what_a_stage_would_refuse_later_is_refused(inside: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError) as error:
        checked(parameters(**changes))
    assert words in str(error.value) and "\n" not in str(error.value)


def labelled(place: Path, labels: dict[str, int]) -> None:
    place.write_text(json.dumps({"labels": [[name, label] for name, label in labels.items()]}), encoding="utf-8")


def test_a_class_that_no_training_image_has_is_refused(inside: Path) -> None:
    """Folders of two splits that do not bear the same names, labels with gaps, and a class that was drawn for the test images."""

    def said(p: dict) -> str:
        with pytest.raises(UserError) as error:
            checked(p)
        assert "\n" not in str(error.value)
        return str(error.value)

    (inside / "split").mkdir()
    for source, place in (("cat", "train/cats"), ("dog", "test/cat")):
        shutil.copytree(inside / "mine" / source, inside / "split" / place)
    p = parameters(data__local="split", data__held_out=0, metrics__n_samples=20, metrics__n_curve=20)
    assert said(p).startswith(
        "split: there are no training images of class cat, only of cats, and samples are drawn from every class alike"
    )
    shutil.copytree(inside / "split/train/cats", inside / "split/train/cat")
    shutil.copytree(inside / "split/train/cats", inside / "split/test/cats")
    checked(p)

    names = sorted(path.relative_to(inside / "mine").as_posix() for path in (inside / "mine").rglob("*.png"))
    labelled(inside / "mine/dataset.json", {name: (1, 2, 5)[k % 3] for k, name in enumerate(names)})
    assert said(parameters()).startswith("mine: there are no training images of class 0, 3, 4, only of 1, 2, 5,")
    labelled(inside / "mine/dataset.json", {name: k % 2 for k, name in enumerate(names)})
    checked(parameters())
    in_test = _drawn(len(names), N_TEST, open_folder(inside / "mine"))
    alone = int(np.flatnonzero(in_test)[0])
    labelled(inside / "mine/dataset.json", {name: int(k == alone) for k, name in enumerate(names)})
    assert said(parameters()).startswith("mine: there are no training images of class 1, only of 0,")
    alone = int(np.flatnonzero(~in_test)[0])
    labelled(inside / "mine/dataset.json", {name: int(k == alone) for k, name in enumerate(names)})
    checked(parameters())


def test_labels_of_folders_that_are_numbers_are_said_where_their_order_is_another(inside: Path) -> None:
    mine, p = inside / "mine", parameters(teacher__net__n_classes=3)
    for k, path in enumerate(sorted(mine.rglob("*.png"))):
        (mine / str((1, 2, 10)[k % 3])).mkdir(exist_ok=True)
        path.rename(mine / str((1, 2, 10)[k % 3]) / path.name)
    said = "labels go by the text of the folders' names, not by the numbers: 1 -> 0, 10 -> 1, 2 -> 2; zeros in front (01, 02, ... 10)"
    assert checked(p)[-1].startswith(said)
    for old, new in (("1", "01"), ("2", "02")):
        (mine / old).rename(mine / new)
    assert checked(p)[-1].startswith("left out")


def test_a_data_set_without_test_images_needs_enough_that_are_held_out(inside: Path) -> None:
    p = parameters()
    for name, held_out in (("ffhq64", N_TEST), ("fashion-mnist", 0)):
        p["data"] |= {"name": name, "held_out": held_out}
        assert checked(p) == []
    p["data"] |= {"name": "ffhq64", "held_out": N_TEST - 1}
    with pytest.raises(UserError, match="ask for 30 test images"):
        checked(p)


def write_teacher(folder: Path, scheduler: object = None, **changes: object) -> None:
    kinds = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
    shape = {"sample_size": 16, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16], "norm_num_groups": 4, **kinds}
    UNet2DModel(**{**shape, "layers_per_block": 1, **changes}).save_pretrained(folder)
    (scheduler or DDPMScheduler()).save_pretrained(folder)


OWN = {"source": "own-diffusers", "local": "net"}


def test_an_own_teacher_is_read_as_its_stage_would(inside: Path) -> None:
    p = plain(parameters(teacher=OWN))
    write_teacher(inside / "net")
    assert checked(p)[0].startswith("mine: 100 images")
    for changes, words in (
        ({"scheduler": FlowMatchEulerDiscreteScheduler()}, "is of FlowMatchEulerDiscreteScheduler"),
        ({"sample_size": 32}, "the teacher is for images of shape"),
        ({"num_class_embeds": 5}, "the teacher knows 5 classes, the data set has 2"),
    ):
        write_teacher(inside / "net", **changes)
        with pytest.raises(UserError, match=words):
            checked(p)


def test_what_a_teacher_cannot_do_is_refused_by_the_names_of_those_that_ask(inside: Path) -> None:
    p = plain(parameters(teacher=OWN))
    p["trajectory_distillation"]["sfd-v"]["step_condition"] = "zero"
    write_teacher(inside / "net")
    checked(p)
    write_teacher(inside / "net", down_block_types=["KDownBlock2D", "DownBlock2D"])
    with pytest.raises(UserError, match=r"sfd-v: net has adaptive group norms and no place for a step condition"):
        checked(p)
    for source in ("own-diffusers", "teacher-edm-cifar10-32x32-uncond-vp", "teacher-edm-cifar10-32x32-cond-vp"):
        p = plain(parameters(teacher=OWN | {"source": source}))
        p["students"]["sfd"] = {"guidance": [2.0]}
        with pytest.raises(
            UserError, match=f"guidance of sfd needs a teacher that was trained on classes and on their absence, which {source} is not"
        ):
            checked(p)


def test_a_classifier_of_another_suite_lies_beside_any_teacher_of_ones_own(inside: Path) -> None:
    p = plain(parameters(teacher=OWN, classifier={"source": "own-backtrail"}))
    write_teacher(inside / "net")
    with pytest.raises(UserError, match=r"net has no classifier\.safetensors: put it there, or train one here"):
        checked(p)
    (inside / "net/classifier.safetensors").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"net/classifier\.safetensors is no whole safetensors file"):
        checked(p)
    save_tensors("net/classifier.safetensors", {"w": torch.zeros(1)}, {"denoiser": {}})
    with pytest.raises(UserError, match=r"has a classifier\.safetensors that is none of a suite's"):
        checked(p)
    for channels, n_classes in ((1, 10), (3, 2), (1, 4)):
        save_classifier("net/classifier.safetensors", Classifier(channels, n_classes, 4), dataset="another")
        with pytest.raises(
            UserError, match=f"of images of {channels} channels and {n_classes} classes, one for these images has 1 channels"
        ):
            checked(p)
    save_classifier("net/classifier.safetensors", Classifier(1, 2, 4), dataset="another")
    assert checked(p)[0].startswith("mine: 100 images")
    fetched = fetch_outside("kept", [source_of_teacher("own-diffusers", "net")], "net")["files"]
    assert "classifier.safetensors" in [file["name"] for file in fetched]
    p["teacher"] = OWN | {"source": "teacher-edm-cifar10-32x32-uncond-vp"}
    with pytest.raises(UserError, match="lies beside a teacher of your own"):
        checked(p)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("teacher_samples__samplers__euler__schedule", {"t_max": 80.0}, "teacher_samples.samplers.euler: schedule.t_max = 80"),
        ("trajectory_distillation__sfd__schedule", {"t_max": 80.0}, "sfd: schedule.t_max = 80"),
        ("score_distillation__disback__sigma_init", 2.5, "disback.sigma_init: the noise level 2.5"),
        ("score_distillation__disback__sigma_init", {"t": 100}, "disback.sigma_init: {t: 100} is beyond the network's time steps, 0 to 99"),
        ("score_distillation__disback__noise_fake", {"kind": "karras"}, "disback.noise_fake: sigma_max = 80 of the noise law"),
        ("score_distillation__disback__noise_student", {"kind": "discrete"}, "disback.noise_student: noise law.betas give 1000 levels"),
    ],
)
def test_noise_beyond_a_teachers_last_step_is_refused_where_params_yaml_asks_for_it(
    inside: Path, key: str, value: object, words: str
) -> None:
    """A network of a hundred steps, whose last level is about 1.3."""
    write_teacher(inside / "net", DDPMScheduler(num_train_timesteps=100))
    p = plain(parameters(teacher=OWN))
    for method in (*p["teacher_samples"]["samplers"].values(), *p["trajectory_distillation"].values()):
        method["schedule"] = {**method.get("schedule", {}), "t_max": 1.0}
    for method in p["score_distillation"].values():
        method |= {"sigma_init": 1.0}
    assert checked(p)[0].startswith("mine: 100 images")
    *sections, last = key.split("__")
    part = p
    for name in sections:
        part = part[name]
    part[last] = value
    with pytest.raises(UserError) as error:
        checked(p)
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


@pytest.mark.parametrize(("label_dim", "label_dropout"), [(0, 0), (2, 0), (2, 0.1)])
def test_guidance_is_refused_where_an_edm_teacher_has_not_seen_classes_and_their_absence(
    inside: Path, label_dim: int, label_dropout: float
) -> None:
    write_edm(inside / "net.pkl", label_dim=label_dim, label_dropout=label_dropout, in_channels=1, out_channels=1)
    p = plain(parameters(teacher={"source": "own-edm", "local": "net.pkl"}))
    assert checked(p)[0].startswith("mine: 100 images")
    p["teacher_samples"]["samplers"]["euler"]["guidance"] = 1.5
    if label_dropout:
        assert checked(p)[0].startswith("mine: 100 images")
    else:
        with pytest.raises(UserError, match=r"guidance of euler needs a teacher .* absence, which net\.pkl is not: set it to 1"):
            checked(p)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_the_snakefile_refuses_parameters_that_are_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable) -> None:
    """DVC would wait for ever for what comes out of a pipe."""
    monkeypatch.chdir(tmp_path)
    make("params.yaml")
    with pytest.raises(WorkflowError, match=r"params.yaml should be a file: it is a "):
        dvc_plan.prepare_suite()


def test_the_snakefile_refuses_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself it would plan the run, and its first job would fail."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("  local: data/local", "  local: nowhere/here", 1), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkflowError, match=r"data.local = 'nowhere/here': nothing is there: make the folder"):
        dvc_plan.prepare_suite()


def test_a_published_teacher_of_text_to_images_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((ROOT / "suites/fashion-text/params.yaml").read_text(encoding="utf-8"))
    values["teacher"] |= {"local": "mine", "sha256": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    suite = read_suite()
    with pytest.raises(UserError, match=r"'mine' has no teacher\.safetensors, autoencoder\.safetensors, judge.*name the folder that"):
        check_text_teacher(suite)
    for part in PARTS:
        save_tensors(fetched(part, "mine"), {"w": torch.zeros(1)}, {"text_dropout": 0.0})
    with pytest.raises(UserError, match=r"guidance of .*heun-w3, .* needs a teacher that knows images without a text, which mine does not"):
        check_text_teacher(suite)
    save_tensors(fetched(TEACHER, "mine"), {"w": torch.zeros(1)}, {"text_dropout": 0.1})
    check_text_teacher(suite)
