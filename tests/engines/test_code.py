"""Edits of code on a real pipeline (the ring, made small, in a suite below suites/): what runs again, in both engines, and what not."""

import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import warm
from backtrail.audit.findings import BROKEN, EXIT_CODES, UNBACKED
from sampled import slow_after
from unit.refusals import as_yaml

from .conftest import IGNORED, ROOT

SUITE = "suites/ring"


def small_ring() -> dict:
    """The ring's parameters, made small."""
    p = yaml.safe_load((ROOT / SUITE / "params.yaml").read_text(encoding="utf-8"))
    p |= {"seeds": [0]}
    p["teacher"] |= {"steps": 30, "batch": 64}
    p["teacher"]["net"]["width"] = 16
    p["evaluation"] |= {"n_points": 200, "n_floor": 2, "window": 2, "mismatch_points": 100, "detour_updates": 10}
    methods = {name: p["score_distillation"][name] for name in ("diff-instruct", "disback")}
    for method in methods.values():
        method |= {"updates": 20, "batch": 32, "evaluate_every": 5, "snapshots": [0, 5, 10]}
        if method["recording"]:
            method["recording"] |= {"steps": 10, "nodes": 2}
            method["node_updates"] = 5
    return p | {"score_distillation": methods}


@dataclass
class Checkout:
    """A repository with the suite in it; commands run in the suite's folder."""

    root: Path
    env: dict[str, str]

    @property
    def suite(self) -> Path:
        return self.root / SUITE

    def call(self, *command: str, code: int | None = 0, folder: Path | None = None) -> str:
        """What a command prints that must end with this code; None: with any failure, for the engines, whose codes tell no more."""
        done = warm.run(command, folder or self.suite, self.env, timeout=400)
        printed = done.stdout + done.stderr
        assert done.returncode if code is None else done.returncode == code, f"{command} gave {done.returncode}: {printed}"
        return printed

    def dvc(self, *arguments: str, code: int | None = 0) -> str:
        return self.call(sys.executable, "-m", "dvc", *arguments, code=code)

    def ran(self, *arguments: str) -> set[str]:
        """The stages whose commands a `dvc repro` runs."""
        return set(re.findall(r"Running stage '(\S+)'", self.dvc("repro", *arguments)))

    def planned(self) -> set[str]:
        """The stages that a dry run of Snakemake names."""
        command = (sys.executable, "-m", "snakemake", "-d", SUITE, "--profile", "local", "-n")
        printed = self.call(*command, folder=self.root)
        names = set(re.findall(r"^Job \d+: (\S+): ", printed, flags=re.MULTILINE))
        assert names or "Nothing to be done" in printed, printed
        return names

    def edit(self, file: str, change: Callable[[str], str]) -> None:
        path = self.root / file
        text = path.read_text(encoding="utf-8")
        changed = change(text)
        assert changed != text
        path.write_text(changed, encoding="utf-8")

    def lock(self) -> list[str]:
        return (self.suite / "dvc.lock").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The suite run once by Snakemake, which lays its pipeline down, and committed."""
    home = tmp_path_factory.mktemp("home")
    root = home / "base"
    for name in ("src", "workflow"):
        shutil.copytree(ROOT / name, root / name, ignore=IGNORED)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copy(ROOT / "local", root / "local", follow_symlinks=False)
    (root / SUITE).mkdir(parents=True)
    (root / SUITE / "params.yaml").write_text(as_yaml(small_ring()), encoding="utf-8")
    identity = {f"GIT_{who}_{what}": "toy@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dropped = ("SNAKEMAKE_PROFILE", "PYTHONPATH", "DVC_STAGE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    checkout = Checkout(root, environment | identity | {"DVC_SITE_CACHE_DIR": str(home / "dvc"), "OMP_NUM_THREADS": "1"})
    checkout.call("git", "init", "-q", "-b", "main", folder=root)
    checkout.call(sys.executable, "-m", "snakemake", "-d", SUITE, "--profile", "local", folder=root)
    checkout.call("git", "add", "-A", folder=root)
    checkout.call("git", "commit", "-q", "-m", "ring", folder=root)
    return checkout


@pytest.fixture
def checkout(base: Checkout, tmp_path: Path) -> Checkout:
    copy = Checkout(tmp_path / "copy", base.env)
    shutil.copytree(base.root, copy.root, symlinks=True)
    return copy


def comment(text: str) -> str:
    return text.replace("\ndef ", "\n# A better comment.\n\ndef ", 1) + "\n\n# the end\n"


def code(text: str) -> str:
    return text + "\nANSWER = 42\n"


def test_a_comment_runs_the_stage_code_and_nothing_else(checkout: Checkout) -> None:
    was = checkout.lock()
    for file in ("src/backtrail/nets/mlp.py", "src/backtrail/denoiser.py", "src/backtrail/running/stage.py"):
        checkout.edit(file, comment)
    assert checkout.planned() == set()
    changed = [line for line, before in zip(checkout.lock(), was, strict=True) if line != before]
    assert len(changed) == 6  # md5 and size of three files
    assert checkout.ran() == set()  # the plan has brought `code` up to date
    checkout.edit("src/backtrail/nets/mlp.py", lambda text: text + "# more\n")
    assert checkout.ran() == {"code"}


def test_a_line_of_code_marks_what_stands_on_it_in_both_engines_and_turned_back_nothing_runs(checkout: Checkout) -> None:
    file = "src/backtrail/report/ring_claims.py"
    before = (checkout.root / file).read_text(encoding="utf-8")
    checkout.edit(file, code)
    assert checkout.planned() == checkout.ran() == {"ring-figure", "ledger"}
    (checkout.root / file).write_text(before, encoding="utf-8")
    assert checkout.ran() <= {"code", "ledger"}  # whose files belong into git, not into the cache
    assert checkout.planned() == set()


@pytest.mark.slow
def test_a_method_alone_is_marked(checkout: Checkout) -> None:
    checkout.edit("src/backtrail/methods/disback/distillation.py", code)
    runs = {"ring-run@diff-instruct-0", "ring-run@disback-0"}
    marked = checkout.planned()
    assert runs <= marked and "ring-teacher" not in marked
    listed = {line[:-1] for line in checkout.dvc("status").splitlines() if line.endswith(":") and not line.startswith("\t")}
    assert listed == runs


def test_a_stage_with_an_old_code_file_refuses_and_every_other_way_ends_well(checkout: Checkout) -> None:
    checkout.edit("src/backtrail/report/ring_claims.py", code)
    refused = checkout.dvc("repro", "--single-item", "--force", "ring-figure", code=None)
    assert "code.yaml has " in refused and "run `dvc repro code` first" in refused and "Traceback" not in refused
    assert checkout.ran("ring-figure") == {"code", "ring-figure"}


@pytest.mark.slow
def test_an_experiment_right_after_an_edit_ends_well(checkout: Checkout) -> None:
    checkout.edit("src/backtrail/report/ring_claims.py", code)
    done = checkout.dvc("exp", "run", "-S", "score_distillation.disback.student.lr=1e-5")
    assert "Ran experiment(s)" in done and "ring-run@diff-instruct-0" not in re.findall(r"Running stage '(\S+)'", done)
    record = json.loads((checkout.suite / "results/records/ring-run@disback-0.json").read_text(encoding="utf-8"))
    assert record["parameters"]["score_distillation.disback"]["student"]["lr"] == 1e-5


@pytest.mark.slow
def test_experiments_change_the_one_method_that_they_name(checkout: Checkout) -> None:
    """`dvc exp run -S` and `--queue`, `dvc params diff` and `dvc exp show`, as people type them: 5e-3 is a number and no text."""
    key = "score_distillation.diff-instruct.student.lr"
    record = checkout.suite / "results/records/ring-run@diff-instruct-0.json"
    done = checkout.dvc("exp", "run", "--name", "faster", "-S", f"{key}=5e-3")
    assert set(re.findall(r"Running stage '(\S+)'", done)) == {"ring-run@diff-instruct-0", "ring-figure", "ledger"}
    assert "Ran experiment(s)" in done
    assert json.loads(record.read_text(encoding="utf-8"))["parameters"]["score_distillation.diff-instruct"]["student"]["lr"] == 5e-3
    ((file, changes),) = json.loads(checkout.dvc("params", "diff", "--json")).items()
    was = small_ring()["score_distillation"]["diff-instruct"]["student"]["lr"]
    assert file == "params.yaml" and changes == {key: {"old": was, "new": 5e-3, "diff": 5e-3 - was}}
    checkout.dvc("exp", "run", "--queue", "--name", "slower", "-S", f"{key}=5e-5")
    checkout.dvc("exp", "run", "--run-all")
    shown = {row["Experiment"]: row[key] for row in csv.DictReader(io.StringIO(checkout.dvc("exp", "show", "--csv"))) if row["Experiment"]}
    assert {name: float(shown[name]) for name in ("faster", "slower")} == {"faster": 5e-3, "slower": 5e-5}


@pytest.mark.slow
def test_a_training_that_is_killed_before_dvc_has_its_outputs_is_not_lost(checkout: Checkout) -> None:
    """Its last state stays until dvc.lock names its record, and goes with the next stage that starts."""
    checkout.env = checkout.env | {"BACKTRAIL_SAVE_EVERY_S": "0"}
    checkout.edit(f"{SUITE}/params.yaml", lambda text: text.replace("steps: 30", "steps: 31"))
    script = str(Path(__file__).with_name("break_dvc.py"))  # and a comment between kill and resume changes no key
    checkout.call(sys.executable, script, "dvc.stage:Stage.commit", "kill", ".", "repro", "--single-item", "ring-teacher", code=None)
    assert sorted(path.name for path in checkout.suite.glob(".scratch/*/*")) == ["finished", "step-000000031.safetensors"]
    checkout.edit("src/backtrail/nets/mlp.py", comment)
    assert "resumed from step 31" in checkout.dvc("repro", "--single-item", "ring-teacher")
    record = json.loads((checkout.suite / "results/records/ring-teacher.json").read_text(encoding="utf-8"))
    assert record["resumed_from"] == [31] and list(checkout.suite.glob(".scratch/ring-teacher-*"))
    checkout.dvc("repro", "ring-run@disback-0")
    assert not list(checkout.suite.glob(".scratch/ring-teacher-*"))


@pytest.mark.slow
def test_a_ring_is_audited_asked_and_exported(checkout: Checkout) -> None:
    """Its figure's numbers are checked as tables are, and its students leave with a card of points, without any data set."""
    program = (sys.executable, str(checkout.root / "src/backtrail"))
    audited = checkout.call(*program, "audit", code=EXIT_CODES[UNBACKED])  # the suite ran before there was a commit
    assert "reports/tables/claims.csv:lower-mismatch-raw: verdict" in audited and "broken:" not in audited
    assert "ring-run@disback-0" in checkout.call(*program, "why", "reports/tables/claims.csv:end,weakest_ours")
    checkout.call(*program, "export")
    card = (checkout.suite / "export/models/disback-seed0/README.md").read_text(encoding="utf-8")
    assert "samples.csv" in card and "drawn by this suite" in card
    forged = checkout.suite / "reports/tables/claims.csv"
    forged.write_text(forged.read_text(encoding="utf-8").replace("undecided at this size", "held"), encoding="utf-8")
    assert "broken: reports/tables/claims.csv" in checkout.call(*program, "audit", code=EXIT_CODES[BROKEN])


HOSTILE: dict[str, Callable[[dict, str], dict]] = {
    "a method": lambda p, run: {"score_distillation": p["score_distillation"] | {f"$({run})": p["score_distillation"]["disback"]}},
    "a seed": lambda p, run: {"seeds": [0, f"$({run})"]},
    "a suite": lambda p, run: {"suite": f"$({run})", "seeds": [f"0; {run}"]},
    "a number": lambda p, run: {"ring": p["ring"] | {"std": 1e39}},
}


@pytest.mark.parametrize("hostile", slow_after(1, HOSTILE.values()), ids=HOSTILE)
def test_hostile_parameters_are_refused_in_one_sentence_by_every_entry_and_reach_no_shell(
    checkout: Checkout, hostile: Callable[[dict, str], dict]
) -> None:
    """`backtrail check`, `dvc repro` (by the first stage that it starts) and `snakemake`, before anything runs."""
    p = yaml.safe_load((checkout.suite / "params.yaml").read_text(encoding="utf-8"))
    canary = checkout.root / "canary"
    (checkout.suite / "params.yaml").write_text(as_yaml(p | hostile(p, f"touch {canary}")), encoding="utf-8")
    sentence = checkout.call(sys.executable, str(checkout.root / "src/backtrail"), "check", code=2).strip().removeprefix("backtrail: ")
    assert sentence.startswith("params.yaml: ") and "\n" not in sentence
    by_dvc = checkout.dvc("repro", code=None)
    by_snakemake = checkout.call(sys.executable, "-m", "snakemake", "-d", SUITE, "--profile", "local", code=None, folder=checkout.root)
    for printed in (by_dvc, by_snakemake):
        assert sentence in printed and "Traceback" not in printed, printed
    assert by_dvc.count("Running stage") == 1 and not canary.exists()


def test_in_the_repository_every_file_of_code_counts_and_no_compiled_one(tmp_path: Path) -> None:
    """There `code` depends on the whole folder: a new file marks it, and what Python and editors leave there does not."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DVC")} | {"DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
    checkout = Checkout(tmp_path / "copy", environment)
    package = checkout.root / "src/backtrail"
    shutil.copytree(ROOT / "src/backtrail/nets", package / "nets", ignore=IGNORED)
    for name in (".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (checkout.root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, checkout.root / name)
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    stage = declared["stages"]["code"] | {"cmd": "echo digests > code.yaml"}
    (checkout.root / "dvc.yaml").write_text(yaml.safe_dump({"vars": declared["vars"], "stages": {"code": stage}}), encoding="utf-8")

    def status() -> str:
        return checkout.call(sys.executable, "-m", "dvc", "status", folder=checkout.root)

    checkout.call("git", "init", "-q", folder=checkout.root)
    checkout.call(sys.executable, "-m", "dvc", "repro", folder=checkout.root)
    assert "up to date" in status()
    (package / "nets/__pycache__").mkdir()
    (package / "nets/__pycache__/mlp.cpython-311.pyc").write_bytes(b"compiled")
    (package / "nets/old.pyc").write_bytes(b"compiled")
    assert "up to date" in status()
    (package / "nets/added.py").write_text("ANSWER = 42\n", encoding="utf-8")
    assert "src/backtrail" in status() and "up to date" not in status()
