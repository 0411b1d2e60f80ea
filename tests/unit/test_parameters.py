"""params.yaml: what is refused, in which words."""

import copy
from functools import partial
from pathlib import Path

import pytest
import yaml

from backtrail.errors import UserError
from backtrail.parameters.suite import read_suite
from unit.refusals import sentence_for

ROOT = Path(__file__).parents[2]
VALID = yaml.safe_load((ROOT / "params.yaml").read_text())
refused = partial(sentence_for, VALID)


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *ROOT.glob("suites/*/params.yaml")], ids=lambda path: path.parent.name)
def test_suites_are_valid(path: Path) -> None:
    read_suite(path)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("score_distillation.disback.sigma_init", -2.5, ["score_distillation.disback.sigma_init = -2.5", "greater than 0"]),
        ("teacher.stepz", 3, ["unknown key teacher.stepz", "allowed beside it", "steps"]),
        ("teacher.steps", 1.5, ["teacher.steps = 1.5", "integer"]),
        ("teacher.optimiser.lr", "5e-3", ["teacher.optimiser.lr = '5e-3'", "write 5.0e-3 or 0.005"]),
        ("teacher.net.channels", [30], ["teacher.net", "multiples of 8"]),
        ("teacher.net.resolution", 32, ["teacher.net.resolution = 32 must be data.resolution = 16"]),
        ("trajectory_distillation.sfd.solver", "ddim9", ["trajectory_distillation.sfd.solver = 'ddim9'", "dpmpp-3m"]),
        ("trajectory_distillation.sfd.num_steps", [2], ["num_steps", "at least 3 time stamps"]),
        ("trajectory_distillation.sfd.substeps", 0, ["trajectory_distillation.sfd.substeps = 0", "greater than or equal to 1"]),
        ("trajectory_distillation.sfd.schedule", {"t_min": 90.0}, ["t_min = 90.0 must be below t_max = 80.0"]),
        ("score_distillation.disback.recording.nodes", 0, ["recording.nodes = 0", "greater than or equal to 1"]),
        ("score_distillation.disback.weighting", "sigma3", ["weighting = 'sigma3'", "sigma2"]),
        ("score_distillation.disback.noise_fake", {"kind": "normal"}, ["noise_fake", "lognormal"]),
        ("metrics.extractors", ["vgg"], ["metrics.extractors", "efficientnet-lite0"]),
        ("metrics.extractors", ["inception", "classifier"], ["metrics", "extractors of Inception and their files", "give both or neither"]),
        ("metrics.extractors", ["efficientnet-lite0"], ["metrics.extractors must hold classifier"]),
        ("teacher", {"source": "teacher-edm-cifar10"}, ["teacher.source = 'teacher-edm-cifar10'", "teacher-edm-cifar10-32x32-uncond-vp"]),
        ("teacher", {"source": "own-edm", "stepz": 3}, ["unknown key teacher.stepz", "local, sha256, source"]),
        ("seeds", [1, 1], ["seeds must be different"]),
        ("data.name", "mnist", ["data.name = 'mnist'", "fashion-mnist"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(tmp_path: Path, key: str, value: object, expected: list[str]) -> None:
    sentence = refused(tmp_path, key, value)
    assert all(part in sentence for part in expected), sentence
    assert "\n" not in sentence


def test_unknown_method_section(tmp_path: Path) -> None:
    assert "unknown key score_distilation" in refused(tmp_path, "score_distilation", {})


def test_broken_yaml_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("teacher:\n  steps: [1, 2\nseeds: 3\n")
    with pytest.raises(UserError, match=r"is not valid YAML in line 3"):
        read_suite(path)


def test_a_missing_file_says_where_to_stand(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the command in a suite's folder"):
        read_suite(tmp_path / "params.yaml")


SECOND = {
    "num_steps": [3], "sample_num_steps": [3], "substeps": 3, "solver": "euler", "teacher_afs": True, "cached": False,
    "rounds": 8, "pool": 8, "optimiser": {"lr": 0.001},
}  # fmt: skip
STARTED = {"sigma_init": 3.107122, "updates": 8, "student": {"lr": 0.001}, "fake": {"lr": 0.001}}


def second_stage(**changes: object) -> dict:
    return {"teacher_method": "sfd-v", "methods": {"sfd-one": SECOND | changes}}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("second_stage", {"teacher_method": None, "methods": {"sfd-one": SECOND}}, "teacher_method must name the method"),
        ("second_stage", {"teacher_method": "sdf", "methods": {"sfd-one": SECOND}}, "'sdf' must be a method of trajectory_distillation"),
        ("second_stage", {"teacher_method": "sfd", "methods": {"sfd-one": SECOND}}, "trained with [4] steps"),
        ("second_stage", second_stage(substeps=4), "this asks it for [9]"),
        ("second_stage", second_stage(schedule={"t_min": 0.002}), "second_stage.sfd-one: its teacher sfd-v was trained"),
        ("second_stage", second_stage(teacher_afs=False), "afs = True"),
        ("second_stage", second_stage(step_condition="zero"), "keeps its teacher's step condition"),
        ("second_stage", second_stage(solver="heun"), "keeps its teacher's step condition, solver and inputs"),
        ("second_stage", second_stage(cached=True), "cached must be false"),
        ("started_score_distillation", {"start_method": None, "methods": {"sfd-disback": STARTED}}, "start_method must name the method"),
        ("started_score_distillation", {"start_method": "sfd", "methods": {"sfd-disback": STARTED}}, "must be a method of second_stage"),
        (
            "started_score_distillation",
            {"start_method": "sfd-one", "methods": {"sfd-disback": STARTED | {"student_start": "random"}}},
            "cannot start at random too",
        ),
        ("teacher.label_dropout", 0.0, "guidance of heun-guided, sfd needs a conditional teacher"),
        ("trajectory_distillation.sfd.guidance", [-1.0], "guidance [-1.0] must not be negative"),
        ("second_stage", {"teacher_method": "sfd-v", "methods": {"sfd": SECOND}}, "['sfd'] stand in two"),
    ],
)  # fmt: skip
def test_methods_that_start_from_another_are_held_against_it(tmp_path: Path, key: str, value: object, expected: str) -> None:
    assert expected in refused(tmp_path, key, value)


def test_a_start_must_make_one_evaluation(tmp_path: Path) -> None:
    values = copy.deepcopy(VALID)
    values["second_stage"] = second_stage(num_steps=[4], sample_num_steps=[4], substeps=2)
    values["started_score_distillation"] = {"start_method": "sfd-one", "methods": {"sfd-disback": STARTED}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="'sfd-one' must make one evaluation"):
        read_suite(tmp_path / "params.yaml")
    values["second_stage"] = second_stage()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    assert read_suite(tmp_path / "params.yaml").methods[:3] == ["diff-instruct", "disback", "sfd-disback"]
