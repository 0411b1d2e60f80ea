"""A finished suite as a user has it: a git repository with the code in it, every stage run and recorded, the ledger committed.

It is built once; each test works on a copy (`ledger`), which it may spoil. `suite` is the same of the small one that is made by hand.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from backtrail.laid_down import CODE_LINE, pipeline_text
from pipeline.conftest import ROOT, tiny, write_images
from tamper import hand_made
from tamper.repository import commit, run
from unit.refusals import as_yaml, self_contained


def small(values: dict[str, Any]) -> dict[str, Any]:
    """Two methods, two seeds, and one extractor, so that the whole chain is there and takes seconds."""
    p = tiny(values) | {"seeds": [0, 1]}
    for family, dropped in (("score_distillation", ("diff-instruct",)), ("trajectory_distillation", ("trajectory", "sfd"))):
        for method in dropped:
            p[family].pop(method)
            p["students"].pop(method)
    p["start"]["teacher"].remove("diff-instruct")
    p["trajectory_distillation"]["sfd-v"] |= {"num_steps": [4, 5], "rounds": 2}
    p["students"]["sfd-v"] = {}
    p["second_stage"]["methods"]["sfd-one"] |= {"substeps": 2}
    p["score_distillation"]["disback"] |= {"updates": 8}
    p["teacher_samples"]["samplers"] = {"dpmpp-3m": {"solver": "dpmpp-3m", "num_steps": [3, 4]}}
    p["teacher_samples"]["reference"] = "dpmpp-3m"
    p["metrics"] |= {"extractors": ["classifier"]}
    p["report"] |= {"metric": "fd_classifier", "sample_solvers": ["dpmpp-3m/nfe2"]}
    return p


def of_one_stage(p: dict[str, Any]) -> dict[str, Any]:
    """Without SFD's second stage and what starts from its student: what is audited of them is audited of the two methods that stay."""
    del p["second_stage"], p["start"]["sfd-one"]
    for section, method in (("score_distillation", "sfd-disback"), ("students", "sfd-one"), ("students", "sfd-disback")):
        del p[section][method]
    return p


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite that is copied; not to be written to."""
    return build(tmp_path_factory.mktemp("finished") / "suite")


def build(folder: Path) -> Path:
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".dvcignore", ".gitignore", "LICENSE", "CITATION.cff", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    write_images(folder / "images")
    shutil.copytree(ROOT / "data/local", folder / "data/local")
    p = of_one_stage(small(self_contained()))
    (folder / "params.yaml").write_text(as_yaml(p), encoding="utf-8")
    (folder / "dvc.yaml").write_text(CODE_LINE.sub("  - code: src/backtrail", pipeline_text(folder, p)))
    run(folder, "git", "init", "--quiet", ".")
    run(folder, "dvc", "init", "--quiet")
    commit(folder, "code and parameters")
    script = str(Path(__file__).with_name("build_suite.py"))
    run(folder, sys.executable, script, PYTHONPATH=str(folder / "src"), OMP_NUM_THREADS="1")
    commit(folder, "results")
    return folder


@pytest.fixture
def ledger(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished suite to spoil."""
    return copied(finished, tmp_path / "suite")


@pytest.fixture(scope="session")
def made_by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small suite that is copied; not to be written to."""
    return hand_made.build(tmp_path_factory.mktemp("hand-made") / "suite")


@pytest.fixture
def suite(made_by_hand: Path, tmp_path: Path) -> Path:
    """A copy of the small suite to spoil."""
    return Path(shutil.copytree(made_by_hand, tmp_path / "suite", symlinks=True))


# Files that whoever makes them replaces and never writes into: a copy of the suite shares them.
SHARED = re.compile("/(.git/objects|.dvc/cache|images|__pycache__)/")


def copied(suite: Path, copy: Path) -> Path:
    """A suite once more, in a third of the time that it takes to copy each of its two thousand files."""

    def shared_or_copied(source: str, target: str) -> None:
        if SHARED.search(source):
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    shutil.copytree(suite, copy, symlinks=True, copy_function=shared_or_copied)
    return copy
