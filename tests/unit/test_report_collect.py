"""Reading a suite's results: every value arrives, and what is missing or does not belong together is named."""

import json

import pytest
from synthetic_suite import METRIC, SEEDS, SOLVERS, STUDENTS, parameters, ripple, write_parameters, write_suite

from backtrail.errors import UserError
from backtrail.report.collect import costs, floor, images, open_suite, paths, protocols, quality, unguided


@pytest.fixture
def folder(tmp_path):
    return write_suite(tmp_path / "suite")


def test_every_measured_value_is_one_row(folder):
    values = quality(open_suite(folder))
    of = values[values["metric"] == METRIC].set_index(["method", "seed", "nfe"])
    expected = {(solver, 0, nfe): fd for solver, by_nfe in SOLVERS.items() for nfe, fd in by_nfe.items()}
    for method, (trained, untrained) in STUDENTS.items():
        expected |= {(method, s, nfe): fd * (1 + ripple(method, s, nfe)) for nfe, fd in {**trained, **untrained}.items() for s in SEEDS}
    assert of["value"].to_dict() == expected
    untrained = {(method, nfe) for method, (_, by_nfe) in STUDENTS.items() for nfe in by_nfe}
    assert {(method, nfe) for method, _, nfe in of.index[~of["trained"]]} == untrained


def test_methods_seeds_and_recorded_paths_come_from_the_parameters(folder):
    suite = open_suite(folder)
    assert suite.methods() == ["diff-instruct", "disback", "trajectory", "sfd", "sfd-v"]
    assert suite.methods("score") == ["diff-instruct", "disback"]
    assert (suite.recorded, suite.seeds, suite.data_set) == (["disback"], SEEDS, "fashion-mnist")
    assert set(paths(suite)["method"]) == {"disback"}


def with_guidance(folder, method="sfd", seed=0):
    """A student's metric file with samples under guidance beside its own: two steps of two branches each."""
    path = folder / f"results/metrics/{method}/seed{seed}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["values"]["student-w1.5"] = {"nfe4": {METRIC: 7.0, "fd_classifier": 0.7}, "nfe6": {METRIC: 8.0, "fd_classifier": 0.8}}
    path.write_text(json.dumps(content), encoding="utf-8")


def test_samples_under_guidance_stand_apart(folder):
    before = quality(open_suite(folder))
    assert set(before["guidance"]) == {1.0}
    for seed in SEEDS:
        with_guidance(folder, seed=seed)
    after = quality(open_suite(folder))
    assert unguided(after).reset_index(drop=True).equals(before)
    guided = after[(after["guidance"] != 1) & (after["metric"] == METRIC)]
    assert set(guided["guidance"]) == {1.5} and set(guided["method"]) == {"sfd"} and len(guided) == 2 * len(SEEDS)
    # sfd is trained for two evaluations: with both branches that makes four, and six are untrained.
    assert guided.groupby("nfe")["trained"].first().to_dict() == {4: True, 6: False}


def test_the_teachers_guidance_is_that_of_its_sampler(folder):
    write_parameters(folder, parameters() | {"teacher_samples": {"samplers": {"heun": {"guidance": 2.0}, "euler": {}}}})
    values = quality(open_suite(folder))
    assert set(values.loc[values["method"] == "heun", "guidance"]) == {2.0}
    assert set(values.loc[values["method"] != "heun", "guidance"]) == {1.0}


def test_an_unknown_source_of_samples_is_named(folder):
    path = folder / "results/metrics/sfd/seed0.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"student"', '"pupil"', 1))
    with pytest.raises(UserError, match="holds the unknown source pupil; expected student or student-wNUMBER"):
        quality(open_suite(folder))


def test_methods_that_start_from_another_student_belong_to_the_families(folder):
    write_parameters(folder, parameters() | {"start": {"teacher": ["diff-instruct"], "sfd-v": ["disback"]}})
    suite = open_suite(folder)
    assert suite.families == dict.fromkeys(["diff-instruct", "disback"], "score") | dict.fromkeys(
        ["trajectory", "sfd", "sfd-v"], "trajectory"
    )
    assert suite.recorded == ["disback"]
    write_parameters(folder, parameters() | {"students": None})
    with pytest.raises(UserError, match="students should be a dict; found None"):
        open_suite(folder)


def test_cost_is_that_of_the_last_row_with_the_recording(folder):
    spent = costs(open_suite(folder)).set_index(["method", "seed"])["cost"]
    assert spent["diff-instruct", 0] == 150 * 8
    assert spent["disback", 2] == 24 * 4 + 150 * 8


@pytest.mark.parametrize(
    ("file", "read", "words"),
    [
        ("results/metrics/sfd/seed1.json", quality, ["stage `metrics` of sfd, seed 1"]),
        ("results/metrics/teacher.json", quality, ["stage `metrics` of the teacher"]),
        ("results/curves/disback/seed2.csv", costs, ["stage `student` of disback, seed 2"]),
        ("results/paths/disback/seed0/path.csv", paths, ["stage `path` of disback, seed 0"]),
        ("results/reference/efficientnet-lite0.json", lambda suite: floor(suite, METRIC), ["stage `reference` of efficientnet-lite0"]),
    ],
)
def test_a_missing_file_is_one_sentence_that_names_the_stage(folder, file, read, words):
    (folder / file).unlink()
    with pytest.raises(UserError) as error:
        read(open_suite(folder))
    for word in [file, "is missing", "dvc repro", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_column_is_named(folder):
    path = folder / "results/curves/sfd/seed0.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("cost", "price", 1))
    with pytest.raises(UserError, match="no column cost"):
        costs(open_suite(folder))


def test_two_protocols_do_not_stand_in_one_table(folder):
    path = folder / "results/metrics/sfd/seed1.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["protocol"][0]["n_images"] = 1000
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=f"measure {METRIC} with different n_images"):
        protocols(open_suite(folder))


def test_protocols_may_differ_in_image_seeds_and_all_are_shown(folder):
    path = folder / "results/metrics/sfd/seed1.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["protocol"][0]["seeds"] = [2000, 4000]
    path.write_text(json.dumps(content), encoding="utf-8")
    shown = protocols(open_suite(folder)).set_index("metric")["seeds"]
    assert shown[METRIC] == "[0, 2000]; [2000, 4000]"


def test_a_metric_without_a_floor_is_refused(folder):
    (folder / "results/reference/classifier.json").write_text('{"floor": {}}', encoding="utf-8")
    with pytest.raises(UserError, match="no real-against-real floor of fd_classifier"):
        floor(open_suite(folder), "fd_classifier")


def test_images_reads_the_first_ones_and_says_what_is_there(folder):
    file = folder / "results/samples/sfd/seed0.safetensors"
    pixels, metadata = images(file, "student/nfe2", 4, "stage `samples`")
    assert pixels.shape == (4, 1, 16, 16)
    assert metadata["first_seed"] == 0
    with pytest.raises(UserError, match=r"holds 12 images student/nfe2; parameter report.sample_columns asks for 13"):
        images(file, "student/nfe2", 13, "stage `samples`")
    with pytest.raises(UserError, match=r"holds no images student/nfe9 \(found: student/nfe2, student/nfe3\)"):
        images(file, "student/nfe9", 1, "stage `samples`")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        images(file, "student/nfe2", 1, "stage `samples`")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seeds": None}, "seeds should be a list; found None"),
        ({"data": {"name": 3}}, "name should be a str; found 3"),
        ({"report": parameters()["report"] | {"metric": "precision_x"}}, "report.metric = 'precision_x'"),
        ({"report": parameters()["report"] | {"colour": 1}}, "unknown key report.colour"),
    ],
)
def test_parameters_that_are_not_allowed_are_named(folder, change, sentence):
    write_parameters(folder, parameters() | change)
    with pytest.raises(UserError) as error:
        open_suite(folder)
    assert sentence in str(error.value)
