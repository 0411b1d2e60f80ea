"""`backtrail check` on names that claims and tables, which go by names, would take for another's."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from backtrail.cli import check
from backtrail.errors import UserError
from backtrail.parameters.suite import read_suite
from unit.refusals import as_yaml

ROOT = Path(__file__).parents[2]
SUITES = [ROOT, *sorted(path.parent for path in ROOT.glob("suites/*/params.yaml"))]
SAMPLER = {"solver": "euler", "num_steps": [4]}


def checked(folder: Path, suite: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """What `check` says of a suite's parameters with these samplers more, or instead."""
    values = yaml.safe_load((suite / "params.yaml").read_text(encoding="utf-8"))
    values["teacher_samples"]["samplers"] |= change
    (folder / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as error:
        CliRunner().invoke(check.command, catch_exceptions=False)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suite", ["", "suites/fashion-text", "suites/sd15"])
def test_a_sampler_with_a_student_s_name_is_refused(suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = checked(tmp_path, ROOT / suite, {"sfd-v": SAMPLER}, monkeypatch)
    assert said.startswith("teacher_samples.samplers.sfd-v and students.sfd-v have one name, and claims and tables would pool them")


def test_in_an_ablation_a_sampler_and_a_student_share_a_name_that_nothing_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The student makes two evaluations, the sampler of the suite three and more."""
    ablations = ROOT / "suites/ablations"
    for names in ({"tmin-02": SAMPLER | {"num_steps": [3]}}, {"tmin-05": SAMPLER, "nodes-6": SAMPLER}):
        assert "have one name" in checked(tmp_path, ablations, names, monkeypatch)


@pytest.mark.parametrize(
    ("name", "sampler", "promised"),
    [
        ("dpmpp-3m", {"solver": "euler"}, "solver dpmpp-3m"),
        ("dpmpp-3m", {"solver": "dpmpp-2m-eps"}, "solver dpmpp-3m"),
        ("dpmpp-3m-nfe3", {"solver": "heun"}, "solver dpmpp-3m"),
        ("ipndm", {"solver": "ipndm-3"}, "solver ipndm-4"),
        ("euler", {"solver": "heun"}, "solver euler"),
        ("heun", {"solver": "dpm-2"}, "solver heun"),
        ("dpm-2", {"solver": "heun"}, "solver dpm-2"),
        ("heun-guided", {"solver": "euler", "guidance": 1.5}, "solver heun with guidance"),
        ("heun-guided", {"solver": "heun"}, "solver heun with guidance"),
    ],
)
def test_a_sampler_is_what_its_name_says(
    name: str, sampler: dict[str, Any], promised: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = checked(tmp_path, ROOT, {name: {"num_steps": [3, 4, 6, 18], **sampler}}, monkeypatch)
    assert said.startswith(f"teacher_samples.samplers.{name} is by its name {promised}, and has solver {sampler['solver']}, guidance ")


def test_a_sampler_is_not_called_as_a_method_of_the_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = checked(tmp_path, ROOT / "suites/fashion-mnist-teacher", {"sfd-v": SAMPLER}, monkeypatch)
    assert said.startswith("teacher_samples.samplers.sfd-v has the name of a method of the papers")


def test_a_student_is_not_called_as_a_solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["trajectory_distillation"]["deis-3"] = values["trajectory_distillation"]["sfd"]
    values["students"]["deis-3"] = {}
    (tmp_path / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"students\.deis-3 has the name of a solver of the teacher"):
        check.check_names(read_suite())


@pytest.mark.parametrize("suite", [folder for folder in SUITES if folder.name != "ring"], ids=lambda folder: folder.name)
def test_the_suites_that_are_there_have_names_of_their_own(suite: Path) -> None:
    check.check_names(read_suite(suite / "params.yaml"))
