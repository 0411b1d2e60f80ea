"""The suites of the papers' size, rehearsed, so that no stage meets its real input for the first time on a cluster.

Their own parameters made small; every file that they fetch under its published name and in its format, with other content: CIFAR's
binary archive, the zip of EDM's tool, EDM's pickles, Inception's state dict, the reference statistics.
"""

import dataclasses
import io
import json
import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from dvc.repo import Repo
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from edm_pickles import foreign_ema, randomised, write_checkpoint
from random_inception import write_random_weights

from backtrail.artifacts import file_digest, load_json
from backtrail.audit import recompute
from backtrail.cli.renderers import renderers
from backtrail.data import prepare, sources
from backtrail.data.cifar import TEST, TRAIN
from backtrail.ledger.ledger import open_ledger
from backtrail.nets.build import load_denoiser
from backtrail.nets.dhariwal import DhariwalConfiguration
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.parameters.metrics import InceptionFiles
from backtrail.teachers.published import PUBLISHED
from backtrail.tensors import load_tensors
from pipeline.conftest import ROOT, TinySuite, run_every_stage

pytestmark = pytest.mark.slow

SHAPE = {"in_channels": 3, "out_channels": 3, "model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1}
SONG, ADM = SongUNetConfiguration, DhariwalConfiguration
TEACHERS = {  # the suite's kind of teacher, tiny
    "cifar10": SONG(**SHAPE, img_resolution=32, attn_resolutions=(16,), augment_dim=9),
    "ffhq64": SONG(**SHAPE, img_resolution=64, attn_resolutions=(32,), augment_dim=9),
    "afhqv2-64": SONG(**SHAPE, img_resolution=64, attn_resolutions=(32,), augment_dim=9),
    "imagenet64": ADM(**SHAPE, img_resolution=64, attn_resolutions=(32,), label_dim=1000),
}
N_IMAGES = {"ffhq64": 80, "afhqv2-64": 80, "imagenet64": 1080}  # of the rehearsal's archives; their own number is checked by name


def small(values: dict[str, Any]) -> dict[str, Any]:
    """A suite's own parameters with every size made small; what is a choice and no size stays, as do the names of files."""
    p = {**values, "seeds": [0], "runtime": {"threads": 1}}
    p["data"] |= {"local": "originals"}
    if p["data"]["name"].endswith("64"):
        p["data"] |= {"held_out": 20}
    p["classifier"] = {"n_steps": 10, "batch_size": 8, "width": 8}
    p["teacher"] |= {"local": "originals"}
    if "source" not in p["teacher"]:
        p["teacher"] |= {"steps": 4, "batch": 4, "net": p["teacher"]["net"] | {"channels": [8, 16], "blocks": 1}}
    for name, sampler in p["teacher_samples"]["samplers"].items():
        sampler["num_steps"] = [3] if name == "heun" else [4]
    for method in p["score_distillation"].values():
        method |= {"updates": 4, "batch": 2, "evaluate_every": 4, "snapshots": [0]}
        if method["recording"]:
            method |= {
                "recording": method["recording"] | {"steps": 3, "nodes": 2, "candidates": 1, "evaluation_batch": 4},
                "node_updates": 2,
            }
    for method in (*p["trajectory_distillation"].values(), *p["second_stage"]["methods"].values()):
        method |= {"rounds": 2, "batch": 2, "pool": 2, "evaluate_every": 2}
    p["metrics"] |= {"n_samples": 4, "n_curve": 8, "n_reference": 16, "n_pairwise": 4, "n_floor": 4, "k_precision": 2, "k_density": 2}
    p["students"] = {name: {} for name in p["students"]}
    p["mismatch"] = {"n_samples": 2, "fit_steps": 1, "sigmas": [0.2, 2.5]}
    p["metrics"]["inception"] |= {"local": "originals"}
    p["report"] |= {"sample_columns": 2, "sample_solvers": ["heun/nfe4", "dpmpp-3m/nfe3"]}
    return p


def pictures(n_images: int, side: int) -> np.ndarray:
    """Random coarse images, uint8 [n, side, side, 3]."""
    coarse = np.random.default_rng(0).integers(0, 256, (n_images, 2, 2, 3), np.uint8)
    return coarse.repeat(side // 2, axis=1).repeat(side // 2, axis=2)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_edm_zip(path: Path, n_images: int, n_classes: int) -> None:
    """Images as EDM's tool stores them. Its labels are the folders of the originals, where there are no classes too."""
    names = [f"{i // 50:05d}/img{i:08d}.png" for i in range(n_images)]
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in zip(names, pictures(n_images, 64), strict=True):
            archive.writestr(name, encoded(image, "png"))
        labels = [[name, i % n_classes if n_classes else i // 50] for i, name in enumerate(names)]
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


def write_cifar_binary(path: Path) -> None:
    """The six files of the official binary archive, of their true length: a label byte, then the pixels channel by channel."""
    pixels = pictures(10_000, 32).transpose(0, 3, 1, 2).reshape(10_000, -1)
    records = np.concatenate([(np.arange(10_000) % 10).astype(np.uint8)[:, None], pixels], axis=1).tobytes()
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name in TRAIN + TEST:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(records)
            archive.addfile(member, io.BytesIO(records))


def write_jpeg_folders(path: Path) -> None:
    """JPEG files in train/CLASS/ and test/CLASS/."""
    with tarfile.open(path, "w:xz") as archive:
        for i, image in enumerate(pictures(120, 32)):
            content = encoded(image, "jpeg")
            member = tarfile.TarInfo(f"{'test' if i % 4 == 0 else 'train'}/class{i % 5}/{i:04d}.jpg")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def unpinned(patch: pytest.MonkeyPatch, name: str) -> str:
    """Other bytes take the place of a published file here: its digest and length are taken out of the registry. Returns the file's name."""
    source = sources.SOURCES[name]
    (file,) = source.files
    free = dataclasses.replace(file, sha256=None, size_bytes=None, served_bytes=None, served_md5=None)
    patch.setitem(sources.SOURCES, name, dataclasses.replace(source, files=(free,)))
    return file.name


def write_originals(folder: Path, suite: str, values: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """Every file that the suite fetches, under its published name and in its published format, with other content."""
    data = unpinned(patch, suite)
    if suite == "cifar10-jpeg":
        return write_jpeg_folders(folder / data)
    if suite == "cifar10":
        write_cifar_binary(folder / data)
    else:
        classes = 1000 if suite == "imagenet64" else 0
        write_edm_zip(folder / data, N_IMAGES[suite], classes)
        patch.setitem(prepare.LOADERS, suite, prepare._zip(data, N_IMAGES[suite], classes or None))
    configuration = EDMTeacher(preconditioning=EDM(), net=TEACHERS[suite])
    teacher = values["teacher"]["source"]
    patch.setitem(PUBLISHED, teacher.removeprefix("teacher-"), configuration)
    write_checkpoint(folder / unpinned(patch, teacher), foreign_ema(randomised(configuration), configuration))
    write_random_weights(folder / unpinned(patch, "inception-2015-12-05"))
    spread = 0.1 * np.random.default_rng(1).standard_normal((2048, 100))
    for source in InceptionFiles.model_validate(values["metrics"]["inception"]).published.values():
        np.savez(folder / unpinned(patch, source), mu=np.full(2048, 0.5), sigma=spread @ spread.T)


@pytest.fixture(scope="module", params=["cifar10", "ffhq64", "afhqv2-64", "imagenet64", "cifar10-jpeg"])
def rehearsal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinySuite:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "originals").mkdir()
    values = yaml.safe_load((ROOT / "suites" / request.param / "params.yaml").read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        write_originals(folder / "originals", request.param, values, patch)
        return run_every_stage(folder, small(values))


def is_imported(rehearsal: TinySuite) -> bool:
    return "source" in yaml.safe_load((rehearsal.folder / "params.yaml").read_text(encoding="utf-8"))["teacher"]


def test_every_stage_runs_and_writes_what_it_declares(rehearsal: TinySuite) -> None:
    for run in rehearsal.runs.values():
        assert all(out.exists() for out in run.outs), run.name
    assert (rehearsal.folder / "reports/index.html").stat().st_size > 10_000


def test_the_teacher_is_the_files_and_its_students_are_of_its_kind(rehearsal: TinySuite) -> None:
    results = rehearsal.folder / "results"
    teacher = load_denoiser(results / "teacher/teacher.safetensors")
    _, metadata = load_tensors(results / "teacher/teacher.safetensors")
    if is_imported(rehearsal):
        ((name, digest),) = metadata["files"].items()
        assert digest == file_digest(rehearsal.folder / "originals" / name)
    for method, told in (("disback", False), ("sfd", False), ("sfd-v", True), ("sfd-nfe1", True), ("sfd-disback", False)):
        student = load_denoiser(results / f"students/{method}/seed0/student.safetensors")
        assert type(student.net) is type(teacher.net) and student.step_condition == told
        assert all(value.isfinite().all() for value in student.state_dict().values())
        differing = [name for name, value in teacher.state_dict().items() if not torch.equal(student.state_dict()[name], value)]
        assert differing and "net.map_augment.weight" not in differing


def test_fid_stands_beside_its_protocol(rehearsal: TinySuite) -> None:
    if not is_imported(rehearsal):
        pytest.skip("cifar10-jpeg has no FID: Inception's weights cannot be had where only the JPEG files are")
    results = rehearsal.folder / "results"
    published = yaml.safe_load((rehearsal.folder / "params.yaml").read_text(encoding="utf-8"))["metrics"]["inception"]
    n_clean = None if "clean_reference" in published else 16  # clean-fid has published CIFAR-10's alone at this resolution
    for file in ("teacher", "disback/seed0", "sfd-v/seed0", "sfd-disback/seed0"):
        metrics = load_json(results / f"metrics/{file}.json")
        entries = {entry["metric"]: entry for entry in metrics["protocol"]}
        entry, clean = entries["fid_inception"], entries["fid_inception_clean"]
        assert entry["n_reference"] is None and clean["n_reference"] == n_clean
        assert (entry["n_images"], entry["samplings"], entry["seeds"]) == (4, 3, [0, 12])
        assert "TensorFlow 1" in entry["resize"] and "Pillow" in clean["resize"]
        for value in (value for sampler in metrics["values"].values() for value in sampler.values()):
            assert 0 < value["fid_inception_best"] <= value["fid_inception"] and value["fid_inception_clean"] > 0
    assert set(load_json(results / "reference/inception.json")["floor"]) >= {"fid_inception", "kid_inception"}
    assert "fid_inception_best" in (rehearsal.folder / "reports/tables/results.csv").read_text(encoding="utf-8").splitlines()[0]


def test_an_audit_finds_every_file_it_needs_and_comes_to_the_same_numbers(rehearsal: TinySuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics, tables and figures from what the stages have stored; what others say of the code and the tree is not asked here."""
    monkeypatch.chdir(rehearsal.folder)
    with Repo(".") as repo:
        repo.commit(force=True)
    ledger = open_ledger(rehearsal.folder)
    drawn = renderers(rehearsal.folder)
    tables, figures = partial(recompute.tables, renderers=drawn), partial(recompute.figures, renderers=drawn)
    for level, below in ((recompute.metrics, "results/metrics/"), (tables, "reports/tables/"), (figures, "reports/")):
        found, right, _ = level(ledger, set(), ("*",))
        assert [finding.message for finding in found] == []
        made = {out for out in ledger.makers if out.startswith(below)}
        assert made and right == made - ({out for out in made if "/tables/" in out} if level is figures else set())
