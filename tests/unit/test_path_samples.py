"""The stage `path-samples`: every row is what the sampler makes of that node or snapshot."""

from pathlib import Path

import pandas as pd
import torch
from click.testing import CliRunner
from oracles import tiny_denoiser

from backtrail.data.dataset import to_uint8
from backtrail.laid_down import lay_down
from backtrail.methods.disback.path import DegradationPath, save_path
from backtrail.nets.build import save_denoiser
from backtrail.parameters.sampling import Schedule
from backtrail.sampling.sample import Sampler, sample
from backtrail.sampling.student import OneStep
from backtrail.stages.path_samples import command
from backtrail.tensors import load_tensors
from unit.refusals import as_yaml, self_contained

ROOT = Path(__file__).parents[2]


def test_rows_are_the_nodes_then_the_snapshots(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = self_contained()
    values["teacher_samples"]["samplers"]["heun"]["num_steps"] = [3, 4]
    values["report"] |= {"sample_columns": 2, "sample_solvers": []}
    (tmp_path / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    lay_down(tmp_path)
    nodes, snapshots = [tiny_denoiser(seed) for seed in (0, 1)], {0: tiny_denoiser(2), 100: tiny_denoiser(3)}
    rows = [{"step": step, "loss_student": loss, "loss_data": 1.0} for step, loss in ((0, 0.5), (24, 0.25))]
    save_path("results/paths/disback/seed0", DegradationPath(nodes, pd.DataFrame(rows)), {})
    for update, student in snapshots.items():
        file = f"results/students/disback/seed0/snapshots/student-{update:09d}.safetensors"
        save_denoiser(file, student, node=0, sampling=OneStep(sigma_init=3.5).model_dump(mode="json"))
    result = CliRunner().invoke(command, ["--stage", "path-samples@disback-0"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    images, metadata = load_tensors("results/path-samples/disback.safetensors")
    assert metadata["rows"] == [
        {"key": "node-000", "node": 0, "step": 0, "loss_student": 0.5},
        {"key": "node-001", "node": 1, "step": 24, "loss_student": 0.25},
        {"key": "student-000000000", "node": 0, "update": 0},
        {"key": "student-000000100", "node": 0, "update": 100},
    ]
    assert metadata["sampler"] == "heun/nfe6"  # the longest of the reference's lengths
    heun = Sampler("heun", 4, schedule=Schedule(t_min=0.002))
    for key, model, sampler in (("node-001", nodes[1], heun), ("student-000000100", snapshots[100], Sampler(sigma_init=3.5))):
        assert torch.equal(images[key], to_uint8(sample(model, sampler, range(2), model.image_shape)))
