"""The benchmark of metrics and samplers compares the same work: what is typed again there gives our samplers' numbers."""

import csv
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import metrics as benchmark

from backtrail.sampling.schedules import polynomial
from backtrail.sampling.solvers import SOLVERS


@pytest.mark.parametrize(("loop", "solver"), [("edm_heun", "heun"), ("diffusers_heun", "heun"), ("diffusers_dpm", "dpmpp-3m")])
def test_the_loops_typed_again_are_the_same_samplers(loop, solver, monkeypatch):
    def denoise(x, sigma, condition=None):
        return x * (0.25 / (0.25 + torch.as_tensor(sigma, dtype=x.dtype) ** 2))

    monkeypatch.setattr(benchmark, "denoise", denoise)
    x, times = 80 * torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)), polynomial(7, 0.002, 80.0)
    *_, expected = SOLVERS[solver](denoise, x, times)
    torch.testing.assert_close(getattr(benchmark, loop)(x, times).float(), expected, rtol=2e-4, atol=1e-4)


def test_every_row_has_its_gain(tmp_path, capsys):
    threads = torch.get_num_threads()
    small = ["--images", "40", "--frechet-images", "60", "--dimension", "16", "--batch", "2", "--turns", "2", "--out", str(tmp_path)]
    try:
        benchmark.main(small)
    finally:
        torch.set_num_threads(threads)
    with open(tmp_path / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["work"], row["other"]) for row in rows} >= {("KID", "torch-fidelity"), ("Frechet", "torch-fidelity"), ("Heun", "EDM")}
    assert all(0 < float(row["lowest"]) <= float(row["gain"]) <= float(row["highest"]) for row in rows)
    assert all(row["work"] in capsys.readouterr().out for row in rows[:1])
