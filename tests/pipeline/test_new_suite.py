"""The suite that `backtrail new` writes runs through all its stages: what it puts into params.yaml fits what the stages ask of it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from own_inputs import write_diffusers, write_edm, write_images

from backtrail.artifacts import load_json
from backtrail.cli import new
from backtrail.nets.build import load_denoiser
from pipeline.conftest import TinySuite, run_every_stage

pytestmark = pytest.mark.slow

N_IMAGES, N_TEST = 60, 12


def shortened(values: dict[str, Any]) -> dict[str, Any]:
    """The suite's own parameters with fewer updates and smaller batches; what `new` chose by images and teacher stays."""
    p = {**values, "classifier": values["classifier"] | {"n_steps": 10, "width": 8}}
    if "net" in p["teacher"]:
        p["teacher"] |= {"steps": 8, "batch": 4, "net": p["teacher"]["net"] | {"channels": [8, 16]}}
    for method in p["score_distillation"].values():
        method |= {"updates": 8, "batch": 4, "evaluate_every": 4, "snapshots": [0]}
        if method["recording"]:
            method["recording"] |= {"steps": 6, "evaluation_batch": 8}
    for method in p["trajectory_distillation"].values():
        method |= {"rounds": 2, "batch": 4, "pool": 2, "evaluate_every": 2}
    p["mismatch"] = {"n_samples": 4, "fit_steps": 1, "sigmas": [0.2, 2.5]}
    return p


@pytest.fixture(scope="module", params=["diffusers", "edm", "grey"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinySuite:
    """A U-Net of diffusers for colour images in three classes; a pickle in EDM's format for as many classes; and grey images without
    classes, whose teacher is trained."""
    here = tmp_path_factory.mktemp(request.param)
    (here / "workflow").mkdir()
    (here / "workflow/Snakefile").touch()
    is_grey = request.param == "grey"
    images = write_images(here / "photos", N_IMAGES, 0 if is_grey else 3, side=16, colour=not is_grey)
    made = {"diffusers": lambda: write_diffusers(here / "pipeline"), "edm": lambda: write_edm(here / "net.pkl", label_dim=3)}
    teacher = [] if is_grey else ["--teacher", str(made[request.param]())]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        done = CliRunner().invoke(new.command, ["mine", "--images", str(images), *teacher, "--device", "cpu"], catch_exceptions=False)
        assert done.exit_code == 0
    folder = here / "suites/mine"
    return run_every_stage(folder, shortened(yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))))


def test_every_stage_runs_and_writes_what_it_declares(made: TinySuite) -> None:
    for run in made.runs.values():
        assert all(out.exists() for out in run.outs), run.name
    assert (made.folder / "reports/index.html").stat().st_size > 10_000


def test_students_are_measured_on_the_images_that_were_held_out(made: TinySuite) -> None:
    methods = yaml.safe_load((made.folder / "params.yaml").read_text(encoding="utf-8"))["students"]
    for method in methods:
        metrics = load_json(made.folder / f"results/metrics/{method}/seed0.json")
        protocol = {entry["metric"]: (entry["n_images"], entry["n_reference"]) for entry in metrics["protocol"]}
        assert protocol["fd_efficientnet_lite0"] == (N_TEST, N_IMAGES - N_TEST) and protocol["kid_classifier"] == (N_TEST, N_TEST)
        values = [values for sampled in metrics["values"].values() for values in sampled.values()]
        assert values and all(value["fd_efficientnet_lite0"] > 0 for value in values)


def test_students_differ_from_the_teacher_that_they_start_from(made: TinySuite) -> None:
    teacher = load_denoiser(made.folder / "results/teacher/teacher.safetensors").state_dict()
    for method in ("diff-instruct", "disback", "trajectory", "sfd"):
        student = load_denoiser(made.folder / f"results/students/{method}/seed0/student.safetensors").state_dict()
        assert student.keys() == teacher.keys() and all(value.isfinite().all() for value in student.values())
        assert any(not value.equal(teacher[name]) for name, value in student.items()), method
