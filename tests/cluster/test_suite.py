"""The real dvc.yaml, at its smallest size, on a real Slurm."""

import pytest

from backtrail.artifacts import load_json
from backtrail.laid_down import lay_down
from cluster.conftest import ClusterProject, make_project
from cluster.slurm import Slurm
from pipeline.conftest import tiny, write_images
from unit.refusals import as_yaml, self_contained

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(2400)]
KEPT = {"score_distillation": ["disback"], "trajectory_distillation": ["sfd-v"]}


@pytest.fixture(scope="module")
def project(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> ClusterProject:
    """The built-in suite with one method of each family and one seed; its training stages ask for a GPU, which they leave alone."""
    project = make_project(tmp_path_factory.mktemp("suite") / "tiny", slurm)
    built_in = self_contained()
    parameters = tiny(built_in) | {"start": {"teacher": ["disback"]}}
    parameters.pop("second_stage")
    for family, methods in KEPT.items():
        parameters[family] = {method: parameters[family][method] for method in methods}
    parameters["students"] = {method: built_in["students"][method] for methods in KEPT.values() for method in methods}
    parameters["resources"]["train"]["gpus"] = 1
    (project.root / "params.yaml").write_text(as_yaml(parameters), encoding="utf-8")
    lay_down(project.root)
    write_images(project.root / "images")
    return project


def test_the_suite_runs_as_a_user_types_it(project: ClusterProject, slurm: Slurm) -> None:
    with project.run() as snakemake:
        code = snakemake.wait(timeout=2200)
    print(slurm.timeline())
    assert code == 0, project.log.read_text(encoding="utf-8")[-4000:]
    records = {path.stem: load_json(path) for path in (project.root / "results/records").glob("*.json")}
    assert {"teacher", "score-distillation@disback-0", "trajectory-distillation@sfd-v-0", "report"} <= set(records)
    assert {slurm.state(stage) for stage in records} == {"COMPLETED"}
    assert slurm.jobs("teacher")[-1]["TresPerJob"] == "gres:gpu:1"
    assert all((project.root / f"logs/{stage}.log").is_file() for stage in records)
    assert (project.root / "reports/index.html").is_file()
    assert "up to date" in project.call("dvc", "status")
    assert "Nothing to be done" in project.call("snakemake", "--profile", "slurm", "-n")
