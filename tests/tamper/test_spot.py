"""Spot checks: what is picked, what a pick finds, and what may be said after them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from backtrail.audit.audit import audit
from backtrail.audit.findings import BROKEN
from backtrail.audit.spot import Population, missed, picked, population
from backtrail.cli.audit import recomputations
from backtrail.ledger.ledger import open_ledger
from backtrail.tensors import load_tensors, save_tensors
from pipeline.conftest import ROOT
from tamper.forging import rewrite_ledger
from tamper.hand_made import build, environment

pytestmark = pytest.mark.xdist_group("tamper")
STAGE, SAMPLES = "samples@disback-0", "results/samples/disback/seed0.safetensors"


@pytest.mark.slow
def test_real_images_with_a_ledger_that_fits_pass_the_hash_level_and_are_found_when_their_stage_is_picked(ledger: Path) -> None:
    (ledger / SAMPLES).chmod(0o644)
    tensors, about = load_tensors(ledger / SAMPLES)
    real = load_file(ledger / "data/dataset.safetensors")["train_images"]
    save_tensors(ledger / SAMPLES, {key: real[: len(of)].contiguous() for key, of in tensors.items()}, about)
    rewrite_ledger(ledger)
    opened = open_ledger(ledger)
    of = population(opened, [name for name in opened.stages if name.startswith("samples@")])
    weights = of.weights
    hits, misses = (next(s for s in range(40) if (STAGE in picked(weights, 1, s)) == wanted) for wanted in (True, False))
    found = audit(ledger, recomputations(("stage",), ("samples@*",), ledger, sample=1, seed=hits))
    assert [(finding.verdict, finding.subject) for finding in found.findings] == [(BROKEN, SAMPLES)] and found.exit_code == 30
    assert any(f"spot checks, seed {hits}: {STAGE}; drawn from {len(weights)} stages" in note for note in found.notes)
    passed = audit(ledger, recomputations(("stage",), ("samples@*",), ledger, sample=1, seed=misses))
    assert passed.findings == [], "the forger has left no contradiction"
    assert any("0% of" in note and "through their whole chain" in note for note in passed.notes)
    assert any(
        f"would have missed it with a probability of at most {missed(of, picked(weights, 1, misses)):.2g}" in note for note in passed.notes
    )


def test_stages_are_picked_by_how_many_numbers_rest_on_them() -> None:
    weights = {"teacher": 60, "samples": 30, "metrics": 10}
    first = [picked(weights, 1, seed)[0] for seed in range(2000)]
    assert all(abs(first.count(name) / 2000 - of / 100) < 0.04 for name, of in weights.items())
    assert sorted(picked(weights, 5, 1)) == sorted(weights) and picked(weights, 2, 7) == picked(weights, 2, 7)


def test_the_chance_of_missing_is_never_greater_than_is_said() -> None:
    """Chains of three stages, of which two are shared; forgers who need a tenth of the numbers take the fewest stages that give it."""
    chains = [frozenset({"data", f"student{i % 10}", f"metrics{i}"}) for i in range(100)]
    weights = {name: sum(name in chain for chain in chains) for name in sorted({name for chain in chains for name in chain})}
    of = Population(weights, chains)
    draws = [picked(weights, 60, seed) for seed in range(300)]
    for forged in ({"student3"}, {f"metrics{i}" for i in range(10)}, {"data"}):
        for n in (1, 10, 30, 60):
            told = [missed(of, names[:n]) if not forged & set(names[:n]) else 1.0 for names in draws]
            for level in (0.95, 0.7, 0.5, 0.2):
                assert sum(chance <= level for chance in told) / len(told) <= level + 0.06, (forged, n, level)
    assert missed(of, ["metrics0"]) == pytest.approx(1 - 10 / 300)
    assert missed(of, ["data", "metrics0"]) == pytest.approx((1 - 10 / 300) * (1 - 10 / 200))
    assert missed(of, list(weights)) == 0.0


def test_of_a_finished_suite_every_number_rests_on_the_data_and_few_on_one_student(finished: Path) -> None:
    opened = open_ledger(finished)
    of = population(opened, [name for name, stage in opened.stages.items() if not stage.keeps_books])
    assert of.weights["dataset"] == max(of.weights.values()) > of.weights["score-distillation@disback-0"] > 0
    assert "ledger" not in of.weights and "code" not in of.weights


@pytest.mark.slow
def test_the_command_prints_the_seed_and_draws_again_by_it(tmp_path: Path) -> None:
    suite = build(tmp_path / "suite")

    def told(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "backtrail", "audit", *arguments]
        return subprocess.run(command, cwd=suite, env=environment() | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True)

    done = told("--level", "stage", "--sample", "1")
    seed, name = re.search(r"spot checks, seed (\d+): (\w+); drawn from 2 stages by how many numbers rest on each", done.stdout).groups()
    assert done.returncode == 0 and "(1 of 2 stages ran again)" in done.stdout
    assert "0% of 1 numbers are bound to the method through their whole chain, 100% through one stage or more" in done.stdout
    again = told("--level", "stage", "--sample", "1", "--seed", seed)
    assert f"spot checks, seed {seed}: {name};" in again.stdout
    both = told("--level", "stage", "--sample", "2")
    assert "100% of 1 numbers are bound to the method through their whole chain" in both.stdout
    for wrong in (("--sample", "1"), ("--level", "stage", "--seed", "1")):
        assert told(*wrong).returncode == 2
