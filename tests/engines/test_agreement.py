"""DVC and Snakemake are two engines of one declaration: the same stages, the same edges, the same idea of what is stale."""

import re
import shutil

import pytest

from .conftest import EDGES, NAMES, Project

SFD_AND_AFTER = {"student@sfd-v-0", "student@sfd-v-1", "metrics@sfd-v", "figure", "table"}


def test_stages_and_edges_are_the_same(project):
    dot = project.dvc("dag", "--dot")
    assert set(re.findall(r'^"([^"]+)";?$', dot, flags=re.MULTILINE)) == NAMES
    assert {(child, parent) for parent, child in re.findall(r'^"([^"]+)" -> "([^"]+)";?$', dot, flags=re.MULTILINE)} == EDGES

    dag = project.snakemake("--dag")
    label = dict(re.findall(r'(\d+)\[label = "([^"]+)"', dag))
    edges = {(label[child], label[parent]) for parent, child in re.findall(r"(\d+) -> (\d+)", dag)}
    assert set(label.values()) == NAMES | {"all"}
    assert {edge for edge in edges if edge[0] != "all"} == EDGES


def test_snakemake_runs_every_stage_once_and_leaves_nothing_to_dvc(untouched):
    untouched.run_snakemake()
    assert untouched.executed() == sorted(NAMES)
    untouched.assert_settled()


def test_dvc_leaves_nothing_to_snakemake(project):
    project.assert_settled()
    assert "Nothing to be done" in project.snakemake("-n", "teacher", "student@disback-0")  # by name, and without a profile


def test_both_name_and_run_the_same_stale_stages(project, tmp_path):
    project.edit("sfd-v_lr: 1", "sfd-v_lr: 2")
    assert project.changed() == {"student@sfd-v-0", "student@sfd-v-1"}
    assert project.planned() == SFD_AND_AFTER  # DVC's, with all that is downstream

    twin = Project(tmp_path / "twin", project.env)
    shutil.copytree(project.root, twin.root, symlinks=True)
    project.run_snakemake()
    twin.dvc("repro")
    executed = project.executed()
    # The metric's JSON comes out as it was; so neither engine draws the figure again.
    assert executed == twin.executed() == sorted(SFD_AND_AFTER - {"figure"})
    assert (project.root / "dvc.lock").read_text(encoding="utf-8") == (twin.root / "dvc.lock").read_text(encoding="utf-8")
    project.assert_settled()


@pytest.mark.slow
def test_a_comment_in_the_code_makes_its_users_stale(project):
    project.edit("# The code", "# A comment, and the code", "tools/student.py")
    students = {name for name in NAMES if name.startswith("student")}
    assert project.changed() == students
    assert project.planned() == students | {"metrics@disback", "metrics@sfd-v", "figure", "table"}
    project.run_snakemake()
    assert project.executed() == sorted(students)  # same bytes: nothing downstream runs
    assert project.changed() == set()


@pytest.mark.slow
def test_clone_and_pull(base, tmp_path):
    base.dvc("push")
    clone = Project(tmp_path / "clone", base.env)
    base.git("clone", "-q", str(base.root), str(clone.root))
    clone.dvc("pull")
    clone.assert_settled()


@pytest.mark.slow
def test_checkout_and_touch(project):
    for name in ("data/raw", "results/path", "results/students"):
        shutil.rmtree(project.root / name)
    project.dvc("checkout")
    for path in project.root.rglob("*"):
        if path.is_file() and not {".git", ".dvc"} & set(path.parts):
            path.touch()
    project.assert_settled()


@pytest.mark.slow
def test_a_suite_is_a_project_of_its_own_with_the_same_cache(project):
    suite = project.root / "suites" / "small"
    (suite / ".dvc").mkdir(parents=True)
    (suite / ".dvc" / "config").write_text(
        '[core]\n    analytics = false\n[cache]\n    dir = ../../../.dvc/cache\n    type = "reflink,copy"\n'
    )
    for name in ("dvc.yaml", "params.yaml", ".dvc/.gitignore", ".dvcignore"):
        shutil.copy(project.root / name, suite / name)
    (suite / "tools").symlink_to("../../tools")
    (suite / "params.yaml").write_text((suite / "params.yaml").read_text(encoding="utf-8").replace("teacher_lr: 1", "teacher_lr: 7"))

    project.run_snakemake("-d", "suites/small")
    # data, classifier and reference are as in the root, and restored from the cache that the two share.
    assert project.executed() == sorted(NAMES - {"data", "classifier", "reference", "figure"})
    assert project.dvc("status", folder="suites/small").strip() == "Data and pipelines are up to date."
    assert "Nothing to be done" in project.snakemake("-n", "--profile", "slurm", "-d", "suites/small")
    project.dvc("repro", folder="suites/small")
    project.dvc("metrics", "diff", "HEAD", folder="suites/small")
    assert project.changed() == set()  # the root sees nothing of its suites
    assert project.executed() == []
    (suite / "tools" / "student.pyc").write_text("compiled")
    assert project.dvc("status", folder="suites/small").strip() == "Data and pipelines are up to date."
