"""The study of a teacher's size and budget: its parameters, every command at a tiny size, its figure."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from backtrail.artifacts import load_json
from backtrail.laid_down import lay_down
from backtrail.ledger.numbers import layout_of
from backtrail.nets.build import build
from backtrail.parameters.net import UNetParameters
from backtrail.parameters.scaling import Scaling
from backtrail.pipeline import declared
from backtrail.report.scaling import draw_scaling, scaling_data
from backtrail.tables import load_csv
from unit.refusals import as_yaml, sentence_for
from unit.text_world import write_originals

VALID = yaml.safe_load((Path(__file__).parents[2] / "suites/fashion-mnist-teacher/params.yaml").read_text(encoding="utf-8"))
VALID["scaling"] = {"channels": {"small": [8, 8], "large": [8, 16]}, "steps": [3, 6], "n_samples": 20}
RUN = """
import dataclasses
from backtrail.cli import backtrail
from backtrail.data import sources
from backtrail.data.registry import File
source = sources.SOURCES["fashion-mnist"]  # small files of the same names, whose digests nobody published
files = tuple(File(name=file.name) for file in source.files)
sources.SOURCES["fashion-mnist"] = dataclasses.replace(source, files=files, package=None)
for command in COMMANDS:
    backtrail(command, standalone_mode=False)
"""
MADE = [f"scaling@{size}-{steps}" for size in ("small", "large") for steps in (3, 6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, values = tmp_path_factory.mktemp("scaling"), copy.deepcopy(VALID)
    write_originals(folder / "data/local", 400, 60)
    values["classifier"] = {"width": 4, "n_steps": 4, "batch_size": 16}
    values["teacher"] |= {"batch": 8}
    values["teacher_samples"] = {"reference": "heun", "samplers": {"heun": {"solver": "heun", "num_steps": [3]}}}
    values["metrics"] |= {"extractors": ["classifier"], "metrics": ["fd"], "n_samples": 40, "n_curve": 10, "n_reference": 100}
    values["report"] |= {"metric": "fd_classifier", "sample_solvers": ["heun/nfe4"]}
    (folder / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    lay_down(folder)
    before = ["code", "fetch", "fetch-teacher", "fetch-inception", "dataset", "classifier", "reference@classifier"]
    commands = [[name.split("@")[0], *(["--stage", name] if "@" in name else [])] for name in (*before, *MADE, "figure-scaling")]
    done = subprocess.run([sys.executable, "-c", RUN.replace("COMMANDS", repr(commands))], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_size_is_trained_for_every_budget_and_measured_beside_real_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in MADE:
        assert all(Path(path).exists() for path in declared(name).outs)
    found = load_json(folder / "results/scaling/large-6.json")
    net = UNetParameters(**{**VALID["teacher"]["net"], "channels": [8, 16]})
    assert found["weights"] == sum(value.numel() for value in build(net, 0.5).parameters())
    assert (found["images"], found["nfe"], set(found["values"])) == (48, 4, {"teacher", "real"})
    assert found["protocol"][0]["n_images"] == 20
    data = load_csv(folder / "reports/figures/scaling.csv")
    assert list(data["size"]) == ["small", "small", "large", "large"] and list(data["images"]) == [24, 48, 24, 48]
    assert data["mean"].iloc[3] == pytest.approx(found["values"]["teacher"]["fd_classifier"]) and data["mean"].nunique() == 4
    assert (data["floor"] < data["mean"]).all() and data["floor"].nunique() == 1
    layout = layout_of("reports/figures/scaling.csv")  # by which each of its numbers can be asked where it comes from
    assert layout is not None and set(layout.keys) < set(data) and all(Path(source).is_file() for source in data["source"])


def test_the_figure_has_a_line_a_size_and_the_floor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    figure = draw_scaling(scaling_data(Scaling(**VALID["scaling"]), "fd_classifier"))
    (legend,) = figure.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said[0].startswith("small, ") and said[1].startswith("large, ") and said[2].startswith("Floor, real against real")
    for line in figure.axes[0].get_lines()[:2]:
        assert sorted(line.get_xdata()) == pytest.approx([24, 48])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("scaling.steps", [3, 3], ["scaling.steps"]),
        ("scaling.channels", {"small": [12]}, ["scaling.channels.small.0 = 12", "multiple of 8"]),
        ("scaling.channels", {"small": [8]}, ["attention_levels [1] must lie in 0..0"]),
        ("teacher", {"source": "own-backtrail", "local": "data/local"}, ["scaling varies the size of a teacher that is trained here"]),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, key: str, value: object, expected: list[str]) -> None:
    sentence = sentence_for(VALID, tmp_path, key, value)
    assert all(part in sentence for part in expected) and "\n" not in sentence, sentence
