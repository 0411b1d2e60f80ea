"""params.yaml: what is refused, in which words."""

import copy
import os
import shutil
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from dvc.stage.cache import _get_cache_hash
from dvc.utils.serialize import load_yaml, modify_yaml
from hypothesis import given, settings
from pydantic import BaseModel

from backtrail.errors import UserError
from backtrail.laid_down import declared_stages
from backtrail.parameters.base import RESERVED
from backtrail.parameters.classifier import ClassifierParameters, ImportedClassifier
from backtrail.parameters.latent_suite import LatentSuite
from backtrail.parameters.reader import read_values
from backtrail.parameters.ring import RingSuite
from backtrail.parameters.score_distillation import PathParameters
from backtrail.parameters.suite import Suite, read_suite
from backtrail.parameters.teacher import ImportedTeacher, TrainedTeacher
from backtrail.parameters.text_suite import PublishedTextSuite, TrainedTextSuite
from unit import hostile_parameters
from unit.refusals import as_yaml, self_contained, sentence_for

ROOT = Path(__file__).parents[2]
VALID = self_contained()
refused = partial(sentence_for, VALID)


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *ROOT.glob("suites/*/params.yaml")], ids=lambda path: path.parent.name)
def test_suites_are_valid(path: Path) -> None:
    read_suite(path)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (
            "score_distillation.disback.sigma_init",
            -2.5,
            ["disback.sigma_init = -2.5", "greater than or equal to 0.000001"],
        ),
        ("teacher.stepz", 3, ["unknown key teacher.stepz", "allowed beside it", "steps"]),
        ("teacher.steps", 1.5, ["teacher.steps = 1.5", "integer"]),
        ("teacher.optimiser.lr", "5e-3", ["'5e-3' is not the same to YAML 1.1 and YAML 1.2: write 0.005"]),
        ("teacher.net.channels", [30], ["teacher.net", "channels.0 = 30", "multiple of 8"]),
        ("teacher.net.resolution", 32, ["teacher.net.resolution = 32 must be data.resolution = 16"]),
        ("trajectory_distillation.sfd.solver", "ddim9", ["trajectory_distillation.sfd.solver = 'ddim9'", "dpmpp-3m"]),
        ("trajectory_distillation.sfd.num_steps", [2], ["num_steps", "at least 3 time stamps"]),
        ("trajectory_distillation.sfd.substeps", 0, ["trajectory_distillation.sfd.substeps = 0", "greater than or equal to 1"]),
        ("trajectory_distillation.sfd.schedule", {"t_min": 90.0}, ["t_min = 90.0 must be below t_max = 80.0"]),
        ("score_distillation.disback.recording.nodes", 0, ["recording.nodes = 0", "greater than or equal to 1"]),
        ("score_distillation.disback.weighting", "sigma3", ["weighting = 'sigma3'", "sigma2"]),
        ("score_distillation.disback.noise_fake", {"kind": "normal"}, ["noise_fake", "lognormal"]),
        ("metrics.extractors", ["vgg"], ["metrics.extractors", "efficientnet-lite0"]),
        (
            "metrics.inception",
            {"reference": "reference-cifar10-32x32", "local": "a"},
            ["reference-cifar10-32x32 is in the features of an extractor that metrics.extractors lacks"],
        ),
        ("metrics.inception", None, ["metrics.inception"]),
        ("data.local", None, ["data.local = None"]),
        ("teacher.local", None, ["teacher.local = None"]),
        ("classifier", {"source": "own-backtrail"}, ["lies beside a teacher of your own: import the teacher too, or train it"]),
        ("classifier", {"source": "own-edm"}, ["classifier.source = 'own-edm'"]),
        ("metrics.extractors", ["efficientnet-lite0"], ["metrics.extractors must hold classifier"]),
        ("teacher", {"source": "teacher-edm-cifar10"}, ["teacher.source = 'teacher-edm-cifar10'", "teacher-edm-cifar10-32x32-uncond-vp"]),
        ("teacher", {"source": "own-edm", "stepz": 3}, ["unknown key teacher.stepz", "local, sha256, source"]),
        ("seeds", [1, 1], ["seeds = [1, 1]: 1 stands in the list twice"]),
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
    path.write_text("teacher:\n  steps: [1, 2\nseeds: 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"is not valid YAML in line 3"):
        read_suite(path)


def test_a_missing_file_says_where_to_stand(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the command in a suite's folder"):
        read_suite(tmp_path / "params.yaml")


SECOND = {
    "num_steps": [3], "substeps": 3, "solver": "euler", "teacher_afs": True, "cached": False, "rounds": 8, "pool": 8,
    "optimiser": {"lr": 0.001},
}  # fmt: skip
STARTED = {
    "recording": None, "student_start": "teacher", "sigma_init": 3.107122, "batch": 64, "noise_fake": {"kind": "lognormal"},
    "updates": 8, "student": {"lr": 0.001}, "fake": {"lr": 0.001},
}  # fmt: skip


def two_stages(**changes: object) -> dict:
    """The built-in suite with a second stage, from whose student a one-step student starts."""
    values = copy.deepcopy(VALID)
    values["second_stage"] = {"teacher_method": "sfd-v", "methods": {"sfd-one": SECOND | changes}}
    values["score_distillation"]["sfd-disback"] = STARTED
    values["start"]["sfd-one"] = ["sfd-disback"]
    values["students"] |= {"sfd-one": {}, "sfd-disback": {}}
    return values


def test_a_path_depends_on_what_it_is_recorded_with_and_on_nothing_else_of_its_method() -> None:
    """So a sweep of the student's learning rate records nothing anew."""
    prefix = "score_distillation.disback."
    path = next(stage for stage in declared_stages(ROOT) if stage.name == "path@disback-0")
    assert {key.removeprefix(prefix) for key in path.params if key.startswith(prefix)} == set(PathParameters.model_fields)
    assert "score_distillation.disback" not in path.params


def test_what_a_path_depends_on_is_said_for_every_method(tmp_path: Path) -> None:
    values = copy.deepcopy(VALID)
    del values["score_distillation"]["disback"]["student_start"]
    (tmp_path / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    with pytest.raises(UserError, match="disback must say student_start: its path depends on it"):
        read_suite(tmp_path / "params.yaml")


def test_a_student_may_start_from_a_second_stage(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(as_yaml(two_stages()), encoding="utf-8")
    suite = read_suite(tmp_path / "params.yaml")
    assert isinstance(suite, Suite) and suite.start_of("sfd-disback") == "sfd-one" and suite.start_of("sfd-one") == "sfd-v"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"substeps": 4}, "this asks it for [9]"),
        ({"schedule": {"t_min": 0.002}}, "second_stage.sfd-one: its teacher sfd-v was trained"),
        ({"teacher_afs": False}, "afs = True"),
        ({"step_condition": "zero"}, "keeps its teacher's step condition"),
        ({"solver": "heun"}, "keeps its teacher's step condition, solver and inputs"),
        ({"cached": True}, "cached must be false"),
        ({"num_steps": [4], "substeps": 2}, "start.sfd-one must be a few-step student of one evaluation"),
    ],
)
def test_a_second_stage_is_held_against_its_teacher(tmp_path: Path, changes: dict, expected: str) -> None:
    values = two_stages(**changes)
    assert expected in sentence_for(values, tmp_path, "second_stage", values["second_stage"])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("second_stage.teacher_method", None, "second_stage.teacher_method = None: should be a valid string"),
        ("second_stage.teacher_method", "sdf", "'sdf' must be a method of trajectory_distillation"),
        ("second_stage.teacher_method", "sfd", "trained with [4] steps"),
        ("start.sfd-one", [], "start must name each method of score_distillation once"),
        ("score_distillation.sfd-disback.student_start", "random", "cannot start at random too"),
        ("teacher.label_dropout", 0.0, "guidance of heun-guided, sfd needs a conditional teacher"),
        ("students.sfd.guidance", [-1.0], "students.sfd.guidance.0 = -1.0: should be greater than or equal to 0"),
        ("trajectory_distillation.disback", VALID["trajectory_distillation"]["sfd"], "['disback'] stand in two"),
    ],
)
def test_methods_that_start_from_another_are_held_against_it(tmp_path: Path, key: str, value: object, expected: str) -> None:
    assert expected in sentence_for(two_stages(), tmp_path, key, value)


SAID = {  # what a refusal says, where its kind has one reason
    "betas": "betas", "num_steps": "num_steps", "seeds": "seeds", "threads": "less than or equal to", "duplicates": "twice",
    "names": "name", "addresses": "should be a path relative to the suite's folder", "merge conflict": "merge conflict",
    "twice": "stands twice", "anchors": "anchors (&)", "deep": "more than 24 levels", "larger": "larger than 128 KiB",
    "not finite": "numbers are finite", "beyond 2^63": "2^63 - 1", "encodings": "UTF-8", "control character": "control character",
    "tab": "tab", "places of stages": "stages write there", "bounds": "should be", "two readings": "write ",
}  # fmt: skip


def corpus() -> Iterator[tuple[str, bytes]]:
    """(kind, content) of every hostile file."""
    for kind, key, value in hostile_parameters.values():
        values = copy.deepcopy(VALID)
        *parents, last = key.split(".") if kind != "names" or key == "suite" else [*key.split("."), str(value)]
        place = values
        for part in parents:
            place = place[part]
        place[last] = value if kind != "names" or key == "suite" else next(iter(place.values()))
        yield kind, as_yaml(values).encode()
    for kind, content in hostile_parameters.texts((ROOT / "params.yaml").read_text(encoding="utf-8")):
        yield kind, content if isinstance(content, bytes) else content.encode()


def refusal(path: Path) -> tuple[str, float, float]:
    """(what is said, CPU seconds, MB that Python took). Memory is looked at in a second reading, which that makes four times as slow."""
    before = time.process_time()
    said = sentence(path)
    spent = time.process_time() - before
    tracemalloc.start()
    if path.stat().st_size > 50_000:
        sentence(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return said, spent, peak / 1e6


def sentence(path: Path) -> str:
    try:
        read_suite(path)
    except UserError as error:
        return str(error).removeprefix(str(path))
    return "taken"


def unbounded(schema: Any, place: str) -> Iterator[str]:
    """The places of a JSON schema where a number lacks a bound, or a list or a mapping of free keys a greatest length."""
    if isinstance(schema, list):
        for part in schema:
            yield from unbounded(part, place)
    if not isinstance(schema, dict):
        return
    needed = {
        **{key: [{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}] for key in ("integer", "number")},
        "array": [{"maxItems"}],
        "object": [{"maxProperties", "properties"}],
    }
    kind = schema.get("type")
    if "const" not in schema and not all(words & schema.keys() for words in needed.get(kind, [])):
        yield place
    for key, part in schema.items():
        if key != "default":
            yield from unbounded(part, f"{place}.{key}")


@pytest.mark.parametrize(
    "model",
    [
        Suite[TrainedTeacher, ClassifierParameters],
        Suite[ImportedTeacher, ImportedClassifier],
        RingSuite,
        TrainedTextSuite,
        PublishedTextSuite,
        LatentSuite,
    ],
)
def test_every_number_list_and_mapping_has_its_bounds(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    assert list(unbounded(schema, "")) == [] and len(schema["$defs"]) > 8
    schema["$defs"]["Adam"]["properties"]["lr"].pop("maximum")
    assert list(unbounded(schema, "")) == [".$defs.Adam.properties.lr"]


def test_hostile_files_are_refused_in_one_sentence_at_once(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Every one, for the reason of its kind, without a traceback; each within a second of CPU and 50 MB."""
    path, spent, wrong = tmp_path / "params.yaml", [], []
    for kind, content in corpus():
        path.write_bytes(content)
        said, seconds, megabytes = refusal(path)
        spent.append(seconds)
        one_sentence = said != "taken" and said.isprintable() and len(said) < 1500 and SAID.get(kind, "") in said
        if not one_sentence or seconds > 1 or megabytes > 50:
            wrong.append(f"{kind}: {content[:60]!r}: {said[:300]} ({seconds:.2f} s, {megabytes:.0f} MB)")
    record_property("files, median and longest ms", (len(spent), 1e3 * statistics.median(spent), 1e3 * max(spent)))
    assert wrong == [] and len(spent) > 300


NO_FILES: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    NO_FILES[kind](tmp_path / "params.yaml")
    with pytest.raises(UserError, match=r"should be a file|cannot be read"):
        read_suite(tmp_path / "params.yaml")


EDITORS = {"mark": lambda b: b"\xef\xbb\xbf" + b, "crlf": lambda b: b.replace(b"\n", b"\r\n"), "utf-8": lambda b: b + "# Größe\n".encode()}


@pytest.mark.parametrize("change", EDITORS.values(), ids=EDITORS)
def test_what_editors_leave_is_read(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    (tmp_path / "params.yaml").write_bytes(change((ROOT / "params.yaml").read_bytes()))
    assert read_suite(tmp_path / "params.yaml") == read_suite(ROOT / "params.yaml")


@pytest.mark.parametrize("rate", [1e-5, 1e-7, 5e-324, 0.1, 1e16, 1.5e-5])
def test_a_number_that_dvc_writes_is_read(tmp_path: Path, rate: float) -> None:
    """`dvc exp run -S trajectory_distillation.sfd.optimiser.lr=1e-5` makes ruamel write 1e-05, text to YAML 1.1."""
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    with modify_yaml(path) as values:
        values["trajectory_distillation"]["sfd"]["optimiser"]["lr"] = rate
    assert read_values(path)["trajectory_distillation"]["sfd"]["optimiser"]["lr"] == rate


@pytest.mark.parametrize("name", ["size", "nfiles", "sfd"])
def test_names_that_dvc_s_run_cache_does_not_see_are_reserved(name: str) -> None:
    """A sampler called `size` could change its number of steps, and DVC would bring back the samples of the former."""
    one, other = (_get_cache_hash({"params": {"params.yaml": {"samplers": {name: {"num_steps": n}}}}}) for n in (3, 4))
    assert (one == other) == (name in RESERVED)


ALPHABET = [*"0129_.eE+-:xobFT ~", "yes", "on", "null", "inf", "nan", "true", "1e-05", "2026-01-01", "<<", "="]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=5).map("".join))
def test_a_word_is_refused_or_read_as_dvc_reads_it(tmp_path_factory: pytest.TempPathFactory, word: str) -> None:
    path = tmp_path_factory.getbasetemp() / "word.yaml"
    path.write_text(f"a: {word}\n", encoding="utf-8")
    try:
        read = read_values(path)
    except UserError:
        return
    assert repr(read) == repr(load_yaml(str(path)))  # by repr: 1 is not 1.0, and True not 1
