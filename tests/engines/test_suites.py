"""The suites: each a DVC project of its own with the one pipeline, that both engines can plan; settings that the papers fix."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import warm
from backtrail.data.sources import SOURCES
from backtrail.parameters.suite import Suite, read_suite
from backtrail.teachers.published import PUBLISHED
from sampled import slow_after

from .conftest import ROOT

EVERY = {path.parent.name: read_suite(path) for path in sorted(ROOT.glob("suites/*/params.yaml"))}
SUITES = {name: suite for name, suite in EVERY.items() if isinstance(suite, Suite)}  # of images: the others have pipelines of their own
IMPORTED = ["cifar10", "ffhq64", "afhqv2-64", "imagenet64"]


def test_the_papers_suites_are_there():
    assert {"cifar10", "cifar10-jpeg", "ffhq64", "afhqv2-64", "imagenet64"} <= set(SUITES)


@pytest.mark.parametrize("name", EVERY)
def test_a_suite_has_the_name_of_its_folder(name):
    assert EVERY[name].suite == name


@pytest.mark.parametrize("name", IMPORTED)
def test_teacher_data_and_reference_belong_together(name):
    suite = SUITES[name]
    net = PUBLISHED[suite.teacher.source.removeprefix("teacher-")].net
    assert net.img_resolution == suite.data.resolution
    assert suite.data.name == name and name in SOURCES
    resolution = f"{suite.data.resolution}x{suite.data.resolution}"
    words = set(suite.teacher.source.split("-")) & set(suite.metrics.inception.reference.split("-"))
    assert resolution in words and words & {"cifar10", "ffhq", "afhqv2", "imagenet"}
    assert suite.report.metric == "fid_inception" and suite.metrics.n_samples == 50_000


@pytest.mark.parametrize("name", IMPORTED)
def test_what_the_papers_fix_is_as_they_have_it(name):
    """SFD: 200,000 and 800,000 trajectories in batches of 128, K = 4, DPM-Solver++(3M), rho 7, t_min 0.006, AFS, L1, a tenth at half."""
    sfd, sfd_v = (SUITES[name].trajectory_distillation[method] for method in ("sfd", "sfd-v"))
    assert (sfd.rounds, sfd_v.rounds) == (1563, 6250) and sfd.rounds * 128 == pytest.approx(200_000, abs=128)
    for p in (sfd, sfd_v):
        assert (p.inputs, p.substeps, p.solver, p.afs, p.loss, p.decay_at, p.batch) == ("trajectory", 4, "dpmpp-3m", True, "l1", 0.5, 128)
        assert p.schedule.model_dump() == {"kind": "polynomial", "t_min": 0.006, "t_max": 80.0, "rho": 7.0} and p.dropout
    assert sfd.num_steps == [4] and sfd_v.num_steps == [4, 5, 6, 7] and sfd_v.step_condition == "random"
    for nfe in (3, 4, 5):
        one = SUITES[name].trajectory_distillation[f"sfd-nfe{nfe}"]
        assert one.num_steps == SUITES[name].students[f"sfd-nfe{nfe}"].num_steps == [nfe + 2]
        assert one.model_dump(exclude={"num_steps"}) == sfd.model_dump(exclude={"num_steps"})
    second = SUITES[name].second_stage.methods["sfd-nfe1"]
    assert (second.num_steps, second.substeps, second.solver, second.teacher_afs, second.afs) == ([3], 3, "euler", True, True)
    assert sfd.optimiser.lr == {"cifar10": 5e-5, "imagenet64": 1e-5}.get(name, 5e-5)
    disback, instruct = (SUITES[name].score_distillation[method] for method in ("disback", "diff-instruct"))
    assert disback.recording.steps == 200 and instruct.recording is None
    # DisBack is held against Diff-Instruct at equal settings.
    differing = {"recording", "node_updates"}
    assert disback.model_dump(exclude=differing) == instruct.model_dump(exclude=differing)


@pytest.mark.parametrize("name", IMPORTED)
def test_where_trajectories_are_new_throughout_none_comes_twice(name):
    suite = SUITES[name]
    for p in [*suite.trajectory_distillation.values(), *suite.second_stage.methods.values()]:
        assert p.cached or p.pool >= p.rounds


def test_diff_instruct_on_cifar10_has_its_released_settings():
    p = SUITES["cifar10"].score_distillation["diff-instruct"]
    assert (p.sigma_init, p.batch, p.weighting, p.order, p.nan_to_num) == (1.0, 128, "sigma2", "fake-first", True)
    assert p.student == p.fake and p.fake.lr == 1e-5 and p.fake.betas == (0.0, 0.999)
    assert p.noise_student == p.noise_fake and (p.noise_fake.mean, p.noise_fake.std) == (-1.2, 1.2)
    assert (p.average.half_life, p.average.ramp) == (500_000, 0.05)


def test_every_number_of_a_score_distillation_has_its_source():
    """In the suites of the papers' data each setting of the methods says where it comes from."""
    for name in IMPORTED:
        text = (ROOT / f"suites/{name}/params.yaml").read_text(encoding="utf-8")
        for key in ("sigma_init", "updates", "batch", "rounds", "substeps", "solver", "n_samples", "step_condition"):
            for line in re.findall(rf"^\s+{key}: .*$", text, flags=re.MULTILINE):
                assert re.search(r"# .*\[\w", line), f"{name}: {line}"


@pytest.fixture
def checkout(tmp_path):
    """A repository with the suites and what the engines need, so that planning writes nothing here."""
    shutil.copytree(ROOT / "suites", tmp_path / "suites", ignore=shutil.ignore_patterns(".snakemake", "tmp", "cache", "data", "results"))
    for name in ("src", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".dvc/config", ".dvc/.gitignore", "data/local/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "slurm", tmp_path / "slurm", follow_symlinks=False)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


@pytest.mark.parametrize("name", slow_after(1, ("cifar10", "cifar10-jpeg", *IMPORTED[1:])))
def test_both_engines_plan_a_suite(checkout: Path, name):
    planned = planned_by_both(checkout, name)
    suite, extractors = SUITES[name], SUITES[name].metrics.extractors
    assert {"fetch", "fetch-teacher", "fetch-inception", "teacher", "report", *(f"reference@{x}" for x in extractors)} <= planned
    for seed in suite.seeds:
        assert {f"score-distillation@{method}-{seed}" for method in suite.score_distillation} <= planned
        assert {f"trajectory-distillation@{method}-{seed}" for method in suite.trajectory_distillation} <= planned


@pytest.mark.slow
def test_both_engines_plan_the_ring(checkout: Path):
    runs = {f"ring-run@{method}-{seed}" for method in EVERY["ring"].methods for seed in EVERY["ring"].seeds}
    assert planned_by_both(checkout, "ring") | {"code"} == {"code", "ring-teacher", "ring-figure", "ledger", *runs}


def planned_by_both(checkout: Path, name: str) -> set[str]:
    """The stages that Snakemake would run in a suite that has not run, which have to be all that DVC lists."""
    folder, environment = checkout / "suites" / name, {**os.environ, "PYTHONPATH": str(checkout / "src")}
    command = [sys.executable, "-m", "snakemake", "-d", str(folder), "--profile", "slurm", "-n"]
    done = warm.run(command, checkout, environment, timeout=400)
    assert done.returncode == 0, done.stderr
    planned = set(re.findall(r"^Job \d+: (\S+): ", done.stdout + done.stderr, flags=re.MULTILINE))
    command = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    listed = warm.run(command, folder, environment, timeout=400)
    assert listed.returncode == 0, listed.stderr
    assert set(listed.stdout.split()) == planned | {"code"}  # which the plan has brought up to date
    return planned
