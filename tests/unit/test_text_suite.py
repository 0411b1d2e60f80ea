"""The suite of text to images: its parameters, its prompts, every command at a tiny size, its table."""

import copy
import importlib.util
import shutil
import subprocess
import sys
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from backtrail.artifacts import load_json
from backtrail.cli import backtrail
from backtrail.data.caption_archive import save_captions
from backtrail.data.captions import CAPTIONS, Caption
from backtrail.errors import UserError
from backtrail.export.teacher import export_teacher
from backtrail.laid_down import declared_stages
from backtrail.methods.disback.path import load_path
from backtrail.nets.build import load_denoiser
from backtrail.parameters.net import TextUNetParameters
from backtrail.parameters.suite import read_suite
from backtrail.parameters.text_suite import TextSuite
from backtrail.stages.text_teacher import check_widths
from backtrail.tables import load_csv
from backtrail.teachers.latents import Latents
from backtrail.teachers.prompts import evaluation_numbers, prompts, training_data, training_numbers
from backtrail.tensors import load_tensors
from unit.refusals import as_yaml, sentence_for
from unit.text_world import random_captions, write_originals

SUITES = Path(__file__).parents[2] / "suites"
PUBLISHED, TEACHER = (
    yaml.safe_load((SUITES / name / "params.yaml").read_text(encoding="utf-8")) for name in ("fashion-text", "fashion-text-teacher")
)
PARTS = ("autoencoder", "judge", "caption_tower", "teacher")
VALID = PUBLISHED | {name: TEACHER[name] for name in PARTS}  # with the students of the one, and the trainings of the other
WIDTH = 24
refused = partial(sentence_for, VALID)
ENCODES = importlib.util.find_spec("transformers") is not None
RUN = """
import dataclasses
from backtrail.cli import backtrail
from backtrail.data import sources
from backtrail.data.registry import File
for name in ("fashion-mnist", "minilm-l6-v2"):  # small files of the same names, whose digests nobody published
    source = sources.SOURCES[name]
    files = tuple(File(name=file.name) for file in source.files)
    sources.SOURCES[name] = dataclasses.replace(source, files=files, package=None, wheel=None)
for command in COMMANDS:
    backtrail(command, standalone_mode=False)
"""


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("data", {"name": "cifar10"}, ["unknown key data", "autoencoder, caption_tower"]),
        ("text.null_text", "nothing", ["text.null_text = 'nothing'", "'empty' or 'zeros'"]),
        ("autoencoder.posterior", "mode", ["autoencoder.posterior = 'mode'", "'sample' or 'mean'"]),
        ("autoencoder.net.channels", [32, 60], ["autoencoder.net.channels.1 = 60", "multiple of 8"]),
        ("teacher.net", {"kind": "text-unet", "resolution": 16}, ["teacher.net must have image_channels = 4 and resolution = 8"]),
        ("teacher.net", {"kind": "text-unet", "channels": [32, 48]}, ["channels [48] must be multiples of head_width = 32"]),
        ("teacher.text_dropout", 0.0, ["guidance of heun-w3, heun-w7,", "set teacher.text_dropout"]),
        ("autoencoder.net.image_channels", 1, ["autoencoder.net.image_channels must be 3, the images are in colour; found 1"]),
        ("teacher.betas", {"beta_start": 2.0}, ["teacher.betas.beta_start = 2.0", "less than 1"]),
        ("trajectory_distillation.sfd-v.cached", True, ["trajectory_distillation.sfd-v needs inputs: trajectory and cached: false"]),
        ("students", {"sfd-v": {}}, ["students must name each method that a section trains, once", "disback-999"]),
        ("evaluation.prompts", "coco", ["evaluation.prompts = 'coco'", "'apart' or 'same'"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(tmp_path: Path, key: str, value: object, expected: list[str]) -> None:
    sentence = refused(tmp_path, key, value)
    assert all(part in sentence for part in expected) and "\n" not in sentence, sentence


def test_what_is_for_suites_of_images_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text(as_yaml(VALID), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="takes minutes on a CPU"):
        backtrail(["plan"], standalone_mode=False)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("autoencoder", {"source": "own-backtrail", "steps": 3}, ["unknown key autoencoder.steps", "posterior, source"]),
        ("judge", {"width": 32, "steps": 3}, ["unknown key judge.width; allowed beside it: source"]),
        ("teacher.local", None, ["teacher.local = None"]),
        ("teacher.source", "teacher-sd15", ["teacher.source = 'teacher-sd15'", "'own-backtrail'"]),
        ("teacher.steps", 3, ["unknown key teacher.steps", "local, sha256, source"]),
    ],
)
def test_parts_are_taken_over_together(tmp_path: Path, key: str, value: object, expected: list[str]) -> None:
    sentence = sentence_for(PUBLISHED, tmp_path, key, value)
    assert all(part in sentence for part in expected) and "\n" not in sentence, sentence


def test_prompts_of_training_and_of_evaluation_are_kept_apart() -> None:
    train, evaluation = ({*numbers.tolist()} for numbers in (training_numbers("apart"), evaluation_numbers("apart")))
    assert len(train) == 72 * 2 * 2 and len(evaluation) == 160 and not train & evaluation
    assert not any(Caption.of(number).held_out for number in train) and sum(Caption.of(number).held_out for number in evaluation) == 16
    assert {*training_numbers("same").tolist()} == {*evaluation_numbers("same").tolist()} and len(training_numbers("same")) == 432
    texts = random_captions()
    told = prompts(texts, "empty", "apart")
    for i in (0, 5, 163):
        image, text = told.of_images([i]), CAPTIONS[evaluation_numbers("apart")[i % 160]]
        assert torch.equal(image.tokens, texts.tokens[texts.rows([text])]) and image.time_ids.tolist() == [[28, 28, 2, 2, 32, 32]]


def test_the_data_of_a_path_are_what_its_captions_speak_of() -> None:
    numbers = torch.tensor([Caption(0, 0, 0, 0).number, Caption(0, 0, 0, 2).number, Caption(5, 1, 1, 1).number, Caption(5, 1, 1, 1).number])
    time_ids = torch.tensor([[28.0, 28, 2, 2, 32, 32]] * 3 + [[28.0, 28, 2, 1, 32, 32]])
    latents = Latents(torch.arange(4.0).reshape(4, 1, 1, 1), numbers, time_ids, "mean", 1.0)
    data = training_data(latents, "apart")
    assert data.images.flatten().tolist() == [0, 2]  # not of a wording that is kept for evaluation, nor cropped elsewhere
    assert training_numbers("apart")[data.labels].tolist() == numbers[[0, 2]].tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite with a method of each kind, two seeds and tiny sizes, that has run."""
    folder, values = tmp_path_factory.mktemp("text"), copy.deepcopy(VALID)
    local = write_originals(folder / "data/local", 400, 60)
    if ENCODES:
        from unit.test_captions import write_encoder

        for file in write_encoder(folder / "encoder").iterdir():
            file.rename(local / file.name)
    else:
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (local / name).write_text("{}", encoding="utf-8")
        save_captions(folder / "results/captions/captions.safetensors", random_captions(WIDTH))
    values["autoencoder"] |= {"steps": 4, "batch": 8, "net": {"channels": [8, 16]}}
    values["judge"] = values["caption_tower"] = {"width": 4, "steps": 4, "batch": 16}
    net = {"kind": "text-unet", "channels": [8, 16], "head_width": 8, "token_width": WIDTH, "pooled_width": WIDTH}
    values["teacher"] |= {"net": net, "steps": 4, "batch": 8}
    samplers = values["teacher_samples"]["samplers"]
    values["teacher_samples"]["samplers"] = {
        name: samplers[name] | {"num_steps": numbers} for name, numbers in (("heun", [3]), ("dpmpp-2m-w3", [3, 4]))
    }
    few = values["trajectory_distillation"]["sfd-v"] | {"num_steps": [3, 4], "substeps": 2, "rounds": 3, "batch": 4, "pool": 3}
    values["trajectory_distillation"] = {"sfd-v": few}
    short = {"updates": 4, "batch": 8, "evaluate_every": 2}
    recording = {**values["score_distillation"]["disback-399"]["recording"], "steps": 3, "nodes": 3, "candidates": 1}
    changes = {"diff-instruct-999": short, "disback-399": short | {"recording": recording, "node_updates": 1}}
    values["score_distillation"] = {name: values["score_distillation"][name] | change for name, change in changes.items()}
    values["students"] = {"sfd-v": {"num_steps": [3, 4], "guidance": [1.0, 3.0]}, "diff-instruct-999": {}, "disback-399": {}}
    values["evaluation"] |= {"n_samples": 40, "n_curve": 10, "n_reference": 100}
    run_all(folder, values)
    return folder


def run_all(folder: Path, values: dict[str, Any]) -> None:
    """Every stage of the suite, in one process."""
    (folder / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    stages = [stage for stage in declared_stages(folder) if stage.name != "code" and (ENCODES or stage.name != "text-captions")]
    commands = [[stage.command, *(["--stage", stage.name] if stage.command != "ledger" else [])] for stage in stages]
    code = RUN.replace("COMMANDS", repr(commands))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def published(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher of that suite as `export --teacher` publishes it; its ledger is made up, of one record a stage."""
    place = tmp_path_factory.mktemp("published")
    stages = [stage for stage in declared_stages(folder) if stage.name != "code"]
    lock = {
        stage.name: {
            "cmd": f"python src/backtrail {stage.command}",
            "outs": [{"path": out, "md5": "0" * 32, "size": 1} for out in stage.outs],
        }
        for stage in stages
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}), encoding="utf-8")
    assert export_teacher(place, folder) == [f"{name}.safetensors" for name in ("teacher", "autoencoder", "judge", "caption-tower")] + [
        "README.md"
    ]
    return place


@pytest.mark.slow
def test_a_published_teacher_is_taken_over_with_all_that_it_comes_with(folder: Path, published: Path, tmp_path: Path) -> None:
    card = (published / "README.md").read_text(encoding="utf-8")
    section = yaml.safe_load(card[card.index("```yaml") + 7 : card.index("```\n\n## Quality")])
    assert set(section) == set(PARTS) and "| fd_garment_colour_classifier |" in card and "fashion-mnist in colours, with captions" in card
    values = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")) | section
    values["teacher"]["local"] = "mine"
    few = values["trajectory_distillation"]["sfd-v"]
    values |= {"seeds": [0], "score_distillation": {}, "trajectory_distillation": {"sfd-v": few}, "students": {"sfd-v": {"num_steps": [3]}}}
    for name in ("data/local", "data/teacher", "results/captions"):
        if (folder / name).exists() and name != "data/teacher":
            shutil.copytree(folder / name, tmp_path / name)
    shutil.copytree(published, tmp_path / "mine")
    run_all(tmp_path, values)
    for part in ("autoencoder/autoencoder", "judges/judge", "judges/caption-tower", "teacher/teacher", "students/sfd-v/seed0/student"):
        ours, theirs = ((place / f"results/{part}.safetensors").read_bytes() for place in (tmp_path, folder))
        assert ours == theirs, part
    again = tmp_path / "params.yaml"
    for key, value, said in (
        ("text", {"seed": 1}, "was trained on other images than this suite's"),
        ("text", {"null_text": "zeros"}, "was trained otherwise: null_text = empty, here zeros"),
    ):
        again.write_text(as_yaml({**values, key: {**values[key], **value}}), encoding="utf-8")
        command = "text-teacher" if "null_text" in value else "text-autoencoder"
        if command == "text-autoencoder":
            stage_of(tmp_path, "text-dataset")
        assert said in stage_of(tmp_path, command)


def stage_of(folder: Path, *names: str) -> str:
    """Run one stage; what it said on its way out."""
    done = subprocess.run(
        [sys.executable, "-c", RUN.replace("COMMANDS", repr([[name, "--stage", name] for name in names]))],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    return done.stderr


@pytest.mark.slow
def test_the_commands_leave_what_dvc_declares(folder: Path) -> None:
    assert isinstance(read_suite(folder / "params.yaml"), TextSuite)
    for stage in declared_stages(folder):
        made = [out for out in stage.outs if (folder / out).exists()]
        assert stage.name == "code" or made == list(stage.outs) or (stage.name == "text-captions" and not ENCODES), stage
    assert not list(folder.glob(".scratch/*"))


@pytest.mark.slow
def test_what_a_model_is_measured_by(folder: Path) -> None:
    names = {"fd_garment_colour_classifier"} | {
        f"{name}_{kind}"
        for name in ("garment_accuracy", "colour_accuracy", "pair_accuracy", "caption_score_own_towers")
        for kind in ("seen", "held_out")
    }
    student, teacher = (load_json(folder / f"results/metrics/{name}.json") for name in ("sfd-v/seed1", "teacher"))
    assert {(way, nfe) for way, of in student["values"].items() for nfe in of} == {
        ("student", "nfe1"), ("student", "nfe2"), ("student-w3", "nfe2"), ("student-w3", "nfe4"),
    }  # fmt: skip
    assert set(teacher["values"]) == {"heun", "dpmpp-2m-w3"} and set(teacher["values"]["dpmpp-2m-w3"]) == {"nfe4", "nfe6"}
    assert set(student["values"]["student"]["nfe2"]) == names and student["trained_nfe"] == [1, 2]
    images, metadata = load_tensors(folder / "results/samples/sfd-v/seed1.safetensors")
    assert images["student-w3/nfe4"].shape == (40, 3, 32, 32) and metadata["captions"] == evaluation_numbers("apart")[:40].tolist()
    real = load_json(folder / "results/reference/garment-colour-classifier.json")["values"]
    assert set(real) == {"real", "real_under_others_captions"} and set(real["real"]) == names
    assert {"l1", "psnr_db"} < set(load_json(folder / "results/reference/autoencoder.json")["values"]["reconstructions"])


@pytest.mark.slow
def test_images_are_those_of_the_archive_each_with_its_caption(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    with chdir(folder):
        arguments = ["images", "sfd-v/seed1", "--nfe", "4", "--guidance", "3", "--seeds", "5-7", "--out", str(out)]
        shown = CliRunner().invoke(backtrail, arguments, catch_exceptions=False).output.splitlines()
    images, metadata = load_tensors(folder / "results/samples/sfd-v/seed1.safetensors")
    for seed in (5, 6, 7):
        with Image.open(out / f"{seed:06d}.png") as file:
            assert np.array_equal(np.asarray(file), images["student-w3/nfe4"][seed].permute(1, 2, 0).numpy())
        assert shown[seed - 4] == f"{seed}: {CAPTIONS[metadata['captions'][seed]]}"


@pytest.mark.slow
def test_a_path_ends_at_nodes_of_its_own_and_begins_at_the_teacher(folder: Path) -> None:
    path, teacher = load_path(folder / "results/paths/disback-399/seed0"), load_denoiser(folder / "results/teacher/teacher.safetensors")
    weights = [torch.cat([value.flatten() for value in net.parameters()]) for net in (teacher, *path.nodes)]
    assert len(path.nodes) == 4 and torch.equal(weights[0], weights[1])
    assert not any(torch.equal(weights[1], other) for other in weights[2:])
    curve = load_csv(folder / "results/curves/disback-399/seed0.csv")
    assert curve["update"].tolist() == [0, 2, 4] and curve["node"].tolist() == [2, 1, 0] and (curve["fd_classifier"] > 0).all()


@pytest.mark.slow
def test_the_table_has_the_floor_in_every_row(folder: Path) -> None:
    table = load_csv(folder / "reports/tables/text.csv")
    assert len(table) == 3 + 4 + 2 and set(table["n_seeds"]) == {1, 2}
    sfd = table[(table["method"] == "sfd-v") & (table["guidance"] == 3)]
    assert sfd["nfe"].tolist() == [2, 4] and sfd["trained"].all()
    measured = [load_json(folder / f"results/metrics/sfd-v/seed{seed}.json")["values"]["student-w3"]["nfe4"] for seed in (0, 1)]
    name = "pair_accuracy_held_out"
    assert sfd[f"{name}_mean"].iloc[1] == pytest.approx(sum(of[name] for of in measured) / 2)
    floor = load_json(folder / "results/reference/autoencoder.json")["values"]["reconstructions"]
    assert table[f"floor_{name}"].tolist() == pytest.approx([floor[name]] * len(table))
    text = (folder / "reports/tables/text.md").read_text(encoding="utf-8")
    assert "Reconstructions (the floor)" in text and "another wording" in text and "no CLIP score" in text


def test_a_teacher_for_other_texts_than_the_encoders_is_refused_before_it_is_trained() -> None:
    net = TextUNetParameters(token_width=WIDTH, pooled_width=WIDTH)
    check_widths(net, random_captions(WIDTH))
    with pytest.raises(UserError, match=r"token_width, pooled_width = \(384, 24\), and the captions were encoded with \(24, 24\)"):
        check_widths(net.model_copy(update={"token_width": 384}), random_captions(WIDTH))
