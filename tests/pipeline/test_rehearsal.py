"""The suites of the papers' size, rehearsed, so that no stage meets its real input for the first time on a cluster.

Their own parameters made small, a random teacher in EDM's file format, images in an archive as EDM's tool makes it, random weights in the
format of Inception's, reference statistics in that of EDM's.
"""

import dataclasses
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from edm_pickles import foreign_ema, randomised, write_checkpoint
from test_nets_inception import write_random_weights

from backtrail.artifacts import file_digest, load_json
from backtrail.data import sources
from backtrail.nets.build import load_denoiser
from backtrail.nets.dhariwal import DhariwalConfiguration
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.tensors import load_tensors
from pipeline.conftest import ROOT, TinySuite, run_every_stage

pytestmark = pytest.mark.xdist_group("rehearsal")

SHAPE = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "model_channels": 16, "channel_mult": (1, 2), "num_blocks": 1}
TEACHERS = {  # the suite's kind of teacher, tiny; and the classes of its data
    "ffhq64": (SongUNetConfiguration(**SHAPE, attn_resolutions=(4,), augment_dim=9), 0),
    "imagenet64": (DhariwalConfiguration(**SHAPE, attn_resolutions=(4,), label_dim=3), 3),
}


def small(values: dict[str, Any]) -> dict[str, Any]:
    """A suite's own parameters with every size made small; what is a choice and no size stays."""
    p = {**values, "code": str(ROOT / "src/backtrail"), "seeds": [0], "runtime": {"threads": 1}}
    p["data"] = {"name": "image-zip", "resolution": 8, "local": "originals/images.zip", "held_out": 20}
    p["classifier"] = {"n_steps": 20, "batch_size": 16, "width": 8}
    p["teacher"] = {"source": "own-edm", "local": "originals/teacher.pkl"}
    for name, sampler in p["teacher_samples"]["samplers"].items():
        sampler["num_steps"] = [3] if name == "heun" else [4]
    for method in p["score_distillation"].values():
        method |= {"updates": 6, "batch": 4, "evaluate_every": 3, "snapshots": [0, 2]}
        if method["recording"]:
            method["recording"] |= {"steps": 4, "nodes": 2, "candidates": 1, "evaluation_batch": 8}
            method["node_updates"] = 2
    for method in p["trajectory_distillation"].values():
        method |= {"rounds": 2, "batch": 4, "pool": 2, "evaluate_every": 1, "sample_num_steps": method["num_steps"]}
    p["metrics"] |= {"n_samples": 8, "n_curve": 12, "n_reference": 30, "n_pairwise": 8, "n_floor": 6, "k_precision": 2, "k_density": 2}
    p["metrics"] |= {"mismatch": {"n_samples": 4, "fit_steps": 1}, "inception": {**p["metrics"]["inception"], "local": "originals"}}
    p["report"] |= {"sample_columns": 2, "sample_solvers": ["heun/nfe4", "dpmpp-3m/nfe3"]}
    return p


def write_zip(path: Path, n_images: int, n_classes: int) -> None:
    """Random smooth images as EDM's tool stores them, with labels where there are classes."""
    draw = np.random.default_rng(0)
    names = [f"{i // 50:05d}/img{i:08d}.png" for i in range(n_images)]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            pixels = np.kron(draw.integers(0, 256, (2, 2, 3)), np.ones((4, 4, 1))).astype(np.uint8)
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "png")
            archive.writestr(name, png.getvalue())
        labels = [[name, i % n_classes] for i, name in enumerate(names)] if n_classes else None
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


@pytest.fixture(scope="module", params=["ffhq64", pytest.param("imagenet64", marks=pytest.mark.slow)])
def rehearsal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinySuite:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "originals").mkdir()
    net, n_classes = TEACHERS[request.param]
    configuration = EDMTeacher(preconditioning=EDM(), net=net)
    write_checkpoint(folder / "originals/teacher.pkl", foreign_ema(randomised(configuration), configuration))
    write_zip(folder / "originals/images.zip", 80, n_classes)
    inception = sources.SOURCES["inception-2015-12-05"]
    file = inception.files[0]
    write_random_weights(folder / "originals" / file.name)
    values = yaml.safe_load((ROOT / "suites" / request.param / "params.yaml").read_text())
    reference = sources.SOURCES[values["metrics"]["inception"]["reference"]].files[0].name
    spread = 0.1 * np.random.default_rng(1).standard_normal((2048, 100))
    np.savez(folder / "originals" / reference, mu=np.full(2048, 0.5), sigma=spread @ spread.T)
    with pytest.MonkeyPatch.context() as patch:
        # The digest of the published weights is pinned; random ones take their place here.
        unpinned = dataclasses.replace(file, sha256=None, size_bytes=None)
        patch.setitem(sources.SOURCES, inception.name, dataclasses.replace(inception, files=(unpinned,)))
        return run_every_stage(folder, small(values))


def test_every_stage_runs_and_writes_what_it_declares(rehearsal: TinySuite) -> None:
    for run in rehearsal.runs.values():
        assert all(out.exists() for out in run.outs), run.name
    assert (rehearsal.folder / "reports/index.html").stat().st_size > 10_000


def test_the_teacher_is_the_files_and_its_students_are_of_its_kind(rehearsal: TinySuite) -> None:
    results = rehearsal.folder / "results"
    teacher = load_denoiser(results / "teacher/teacher.safetensors")
    _, metadata = load_tensors(results / "teacher/teacher.safetensors")
    assert metadata["files"] == {"teacher.pkl": file_digest(rehearsal.folder / "originals/teacher.pkl")}
    assert teacher.image_shape == (3, 8, 8)
    for method, told in (("disback", False), ("sfd", False), ("sfd-v", True)):
        student = load_denoiser(results / f"students/{method}/seed0/student.safetensors")
        assert type(student.net) is type(teacher.net) and student.step_condition == told
        assert all(value.isfinite().all() for value in student.state_dict().values())
        differing = [name for name, value in teacher.state_dict().items() if not torch.equal(student.state_dict()[name], value)]
        assert differing and "net.map_augment.weight" not in differing


def test_fid_stands_beside_its_protocol(rehearsal: TinySuite) -> None:
    results = rehearsal.folder / "results"
    for file in ("teacher", "disback/seed0", "sfd-v/seed0"):
        metrics = load_json(results / f"metrics/{file}.json")
        entry = next(entry for entry in metrics["protocol"] if entry["metric"] == "fid_inception")
        assert entry["n_reference"] is None and entry["n_images"] == 8 and "TensorFlow 1" in entry["resize"]
        values = [value["fid_inception"] for sampler in metrics["values"].values() for value in sampler.values()]
        assert values and all(value > 0 for value in values)
    assert set(load_json(results / "reference/inception.json")["floor"]) >= {"fid_inception", "kid_inception"}
    assert "fid_inception" in (rehearsal.folder / "reports/tables/results.csv").read_text().splitlines()[0]
