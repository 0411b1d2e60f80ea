"""Table and figures of text to images, on results made by hand."""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from backtrail.artifacts import save_json
from backtrail.cli import results
from backtrail.data.captions import CAPTIONS
from backtrail.layout import metrics, reference_values, samples
from backtrail.parameters.suite import read_suite
from backtrail.report.text import KEYS, SHOWN, for_readers, render_text, text_results
from backtrail.report.text_figures import COLUMNS, PANELS, curve_rows, draw_curves, draw_samples, sample_rows
from backtrail.teachers.prompts import evaluation_numbers
from backtrail.tensors import save_tensors
from unit.refusals import as_yaml

VALID = yaml.safe_load((Path(__file__).parents[2] / "suites/fashion-text/params.yaml").read_text(encoding="utf-8"))
WAYS = {"student": ["nfe2", "nfe10"], "student-w3": ["nfe4"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The teacher at two weights and SFD-v with two seeds; a value is 1 for the teacher, and seed + NFE / 100 for the student."""
    values = copy.deepcopy(VALID)
    samplers = values["teacher_samples"]["samplers"]
    values["teacher_samples"]["samplers"] = {name: samplers[name] for name in ("heun", "dpmpp-2m-w3")}
    values |= {"score_distillation": {}, "students": {"sfd-v": {}}}
    (tmp_path / "params.yaml").write_text(as_yaml(values), encoding="utf-8")

    def of(value: float) -> dict[str, float]:
        return dict.fromkeys(SHOWN, value)

    def write(method: str, seed: int | None, measured: dict[str, dict[str, dict[str, float]]], trained: list[int]) -> None:
        save_json(tmp_path / metrics(method, seed), {"method": method, "values": measured, "trained_nfe": trained})
        images = {
            f"{way}/{nfe}": torch.full((COLUMNS, 3, 32, 32), 100 + (seed or 0), dtype=torch.uint8)
            for way in measured
            for nfe in measured[way]
        }
        save_tensors(
            tmp_path / samples(method, seed), images, {"first_seed": 0, "captions": evaluation_numbers("apart")[:COLUMNS].tolist()}
        )

    write("teacher", None, {"heun": {"nfe18": of(1.0)}, "dpmpp-2m-w3": {"nfe4": of(1.0), "nfe10": of(1.0)}}, [])
    for seed in (0, 1):
        measured = {way: {nfe: of(seed + int(nfe[3:]) / 100) for nfe in lengths} for way, lengths in WAYS.items()}
        write("sfd-v", seed, measured, [2, 3])
    save_json(tmp_path / reference_values("garment-colour-classifier"), {"values": {"real": of(0.25)}})
    save_json(tmp_path / reference_values("autoencoder"), {"values": {"reconstructions": of(0.125)}})
    return tmp_path


def test_a_row_is_a_model_at_a_length_and_a_weight_in_the_order_of_the_suite(folder: Path) -> None:
    table = text_results(folder)
    assert table[KEYS].to_numpy().tolist() == [
        ["teacher", "heun", 18, 1.0, True],
        ["teacher", "dpmpp-2m-w3", 4, 3.0, True],
        ["teacher", "dpmpp-2m-w3", 10, 3.0, True],
        ["student", "sfd-v", 2, 1.0, True],
        ["student", "sfd-v", 10, 1.0, False],
        ["student", "sfd-v", 4, 3.0, True],  # two evaluations of either branch
    ]
    name = "pair_accuracy_seen"
    assert table[f"{name}_mean"].tolist() == pytest.approx([1, 1, 1, 0.52, 0.6, 0.54])
    assert table[f"{name}_std"].fillna(-1).tolist() == pytest.approx([-1, -1, -1, 0.5**0.5, 0.5**0.5, 0.5**0.5])
    assert set(table[f"floor_{name}"]) == {0.125} and set(table[f"real_{name}"]) == {0.25}
    assert table["n_seeds"].tolist() == [1, 1, 1, 2, 2, 2]
    shown = for_readers(table, read_suite(folder / "params.yaml"))
    assert [row[0] for row in shown.rows[:2]] == ["Real images", "Reconstructions (the floor)"] and shown.rows[1][3] == "0.125"
    assert shown.rows[5][:4] == ["Student, sfd-v", "1", "2", "0.52 ± 0.7"]


def test_a_screen_of_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render_text(folder)
    monkeypatch.chdir(folder)
    shown = CliRunner().invoke(results.command, []).output.splitlines()
    assert shown[0].split()[-3:] == ["fd_garment_colour_classifier", "pair_accuracy_held_out", "pair_accuracy_seen"]
    assert shown[4].split() == ["sfd-v", "2", "1", "2", *["0.52", "±", "0.7071"] * 3]


def test_each_column_of_images_stands_over_its_caption(folder: Path) -> None:
    rows = sample_rows(folder, read_suite(folder / "params.yaml"))
    names = list(rows["row"].unique())
    assert names == ["Teacher, heun, NFE 18", "Teacher, dpmpp-2m-w3, NFE 10", "sfd-v, NFE 2", "sfd-v, NFE 10", "sfd-v, NFE 4, w = 3"]
    first = rows[rows["row"] == "sfd-v, NFE 2"]
    numbers = evaluation_numbers("apart")[:COLUMNS].tolist()
    assert first["caption"].tolist() == [CAPTIONS[number] for number in numbers] and set(first["source"]) == {samples("sfd-v", 0)}
    figure = draw_samples(rows)
    places = {text.get_text().replace("\n", " "): text.get_position() for text in figure.texts}
    assert {*first["caption"], *names} <= set(places)
    (box,) = (axes.get_position() for axes in figure.axes)
    across = [places[caption][0] for caption in first["caption"]]
    centres = [box.x0 + box.width * (column + 0.5) / COLUMNS for column in range(COLUMNS)]
    assert across == pytest.approx(centres, abs=0.01) and all(places[caption][1] < box.y0 for caption in first["caption"])


def test_curves_have_a_line_for_each_model_and_weight_and_the_floor(folder: Path) -> None:
    rows = curve_rows(text_results(folder))
    assert len(rows) == 6 * len(PANELS)
    figure = draw_curves(rows)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    named = ["teacher, heun, w = 1", "teacher, dpmpp-2m-w3, w = 3", "student, sfd-v, w = 1", "student, sfd-v, w = 3"]
    assert sorted(labels) == sorted([*named, "reconstructions (the floor)"])
    drawn = dict(zip(labels, handles, strict=True))["student, sfd-v, w = 1"].lines[0]
    assert drawn.get_xdata().tolist() == [2, 10] and drawn.get_ydata().tolist() == pytest.approx([0.52, 0.6])
