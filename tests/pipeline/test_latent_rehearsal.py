"""The suites of published latent teachers, rehearsed: their own parameters made small, every file in its published layout, every stage."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import yaml
from dvc.repo import Repo
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from latent_world import small, unpin, write_suite_files

from backtrail.artifacts import load_json
from backtrail.audit import recompute
from backtrail.cli.renderers import renderers
from backtrail.data.latent_sources import LATENT_TEACHERS
from backtrail.ledger.ledger import open_ledger
from backtrail.methods.disback.path import load_path
from backtrail.nets.build import load_denoiser
from backtrail.tables import load_csv
from backtrail.teachers.latent_texts import load_texts
from backtrail.tensors import load_tensors
from pipeline.conftest import ROOT, TinySuite, run_every_stage
from unit.refusals import as_yaml

pytest.importorskip("transformers"), pytest.importorskip("peft")
pytestmark = [pytest.mark.xdist_group("latent-rehearsal"), pytest.mark.slow]


@pytest.fixture(scope="module", params=["sd15", "sdxl", "lsun-bedroom"])
def rehearsal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinySuite:
    folder = tmp_path_factory.mktemp(request.param)
    values = yaml.safe_load((ROOT / "suites" / request.param / "params.yaml").read_text(encoding="utf-8"))
    licence = LATENT_TEACHERS[values["latent"]["source"]].licence
    with pytest.MonkeyPatch.context() as patch:
        unpin(patch)
        write_suite_files(folder / "originals", request.param, patch)
        return run_every_stage(folder, small(values, licence))


def test_every_stage_runs_and_writes_what_it_declares(rehearsal: TinySuite) -> None:
    for run in rehearsal.runs.values():
        assert all(out.exists() for out in run.outs), run.name


def test_students_are_of_the_teachers_kind_and_have_moved(rehearsal: TinySuite) -> None:
    results, name = rehearsal.folder / "results", yaml.safe_load((rehearsal.folder / "params.yaml").read_text(encoding="utf-8"))["suite"]
    teacher = load_denoiser(results / "teacher/teacher.safetensors")
    told = {"sd15": {"sfd-v": True}, "sdxl": {"disback": False, "disback-lora": False}, "lsun-bedroom": {"sfd": False, "sfd-v": True}}[name]
    for method, steps in told.items():
        student = load_denoiser(results / f"students/{method}/seed0/student.safetensors")
        assert type(student.net) is type(teacher.net) and student.step_condition == steps
        assert all(value.isfinite().all() for value in student.state_dict().values())
        assert any(not torch.equal(student.state_dict()[key], value) for key, value in teacher.state_dict().items())
        curve = load_csv(results / f"curves/{method}/seed0.csv")
        assert (curve["fd_inception_of_curve"] > 0).all() and "fd_classifier" not in curve
    if name == "sdxl":
        for method in told:
            path = load_path(results / f"paths/{method}/seed0")
            first = [torch.cat([value.flatten() for value in node.parameters()]) for node in path.nodes[1:]]
            assert len(path.nodes) == 4 and not torch.equal(first[0], first[-1]) and path.table["loss_data"].notna().all()


def test_captions_are_encoded_once_and_kept_apart(rehearsal: TinySuite) -> None:
    texts = load_texts(rehearsal.folder / "results/captions/captions.safetensors")
    if texts is None:
        assert yaml.safe_load((rehearsal.folder / "params.yaml").read_text(encoding="utf-8"))["prompts"] is None
        return
    assert len(texts.texts) == len({*texts.texts}) == len(texts.tokens) - 1
    training, evaluation = ({texts.texts[k] for k in rows} for rows in (texts.training, texts.evaluation))
    assert training and evaluation and not training & evaluation


def test_every_value_stands_under_the_whole_name_of_its_protocol(rehearsal: TinySuite) -> None:
    p = yaml.safe_load((rehearsal.folder / "params.yaml").read_text(encoding="utf-8"))
    names = {
        "sd15": {"fid_4", "fid_4_crop_256_clean", "clip_score_vit_g_14_laion2b_s34b_b88k_caption_x100"},
        "sdxl": {"fid_4_crop_512_clean", "patch_fid_4_clean", "clip_score_vit_g_14_laion2b_s12b_b42k_a_photo_depicts_x1_crop_256"},
        "lsun-bedroom": {"fid_4"},
    }[p["suite"]]
    for file in (rehearsal.folder / "results/metrics").rglob("*.json"):
        content = load_json(file)
        assert {entry["metric"] for entry in content["protocol"]} == names
        assert all({*values} == names for by_nfe in content["values"].values() for values in by_nfe.values())
    floor = load_json(rehearsal.folder / "results/reference/first-stage.json")["values"]["reconstructions"]
    assert {"l1", "psnr_db"} < {*floor} and {*floor} - {"l1", "psnr_db"} <= names
    table = load_csv(rehearsal.folder / "reports/tables/latent.csv")
    assert {f"{name}_mean" for name in names} < {*table} and len(table) == {"sd15": 4, "sdxl": 3, "lsun-bedroom": 7}[p["suite"]]
    said = (rehearsal.folder / "reports/tables/latent.md").read_text(encoding="utf-8")
    assert ("not measured under" in said) == (p["prompts"] is not None) and "Floor" in said
    images, about = load_tensors(rehearsal.folder / "results/samples/teacher.safetensors")
    assert all(value.shape == (4, 3, 16, 16) for value in images.values()) and about["n_images"] == 4


def test_an_audit_comes_to_the_same_tables_and_figures(rehearsal: TinySuite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(rehearsal.folder)
    with Repo(".") as repo:
        repo.commit(force=True)
    ledger = open_ledger(rehearsal.folder)
    drawn = renderers(rehearsal.folder)
    found, right, notes = recompute.metrics(ledger, set(), ("*",))
    assert (found, right) == ([], set()) and "latent-teacher-samples" in notes[0] and "not kept" in notes[0]
    for level, below in ((recompute.tables, "reports/tables/"), (recompute.figures, "reports/figures/")):
        found, right, _ = level(ledger, set(), ("*",), renderers=drawn)
        assert [finding.message for finding in found] == []
        assert right and right == {out for out in ledger.makers if out.startswith(below)}
    assert {run.name for run in rehearsal.runs.values()} - {"code", "ledger"} == {*load_json("results/ledger.json")["records"]}


def test_a_student_leaves_as_a_u_net_of_diffusers_under_the_teachers_licence(rehearsal: TinySuite, tmp_path: Path) -> None:
    """Where it makes images with the suite's first stage, those of the archive: `backtrail images`."""
    values = yaml.safe_load((rehearsal.folder / "params.yaml").read_text(encoding="utf-8"))
    method = {"sd15": "sfd-v", "sdxl": "disback-lora", "lsun-bedroom": "sfd"}[values["suite"]]
    archive, _ = load_tensors(rehearsal.folder / f"results/samples/{method}/seed0.safetensors")
    name, drawn = next((name, of) for name, of in archive.items() if name.startswith("student/nfe"))
    rehearsal.run("images", method, "--nfe", name.removeprefix("student/nfe"), "--seeds", "0-1", "--out", str(tmp_path / "pictures"))
    for seed in (0, 1):
        with Image.open(tmp_path / f"pictures/{seed:06d}.png") as file:
            assert np.array_equal(np.asarray(file), drawn[seed].permute(1, 2, 0).numpy())
    with Repo(str(rehearsal.folder)) as repo, chdir(rehearsal.folder):
        repo.commit(force=True)
    rehearsal.run("export", str(tmp_path / "crate"))
    folder = tmp_path / f"crate/models/{method}-seed0"
    card, licence = (folder / "README.md").read_text(encoding="utf-8"), LATENT_TEACHERS[values["latent"]["source"]].licence
    assert f"license: other\nlicense_name: {json.dumps(licence)}" in card and f"backtrail images {method}/seed0" in card
    (unet,) = list(folder.glob("unet")) or list(folder.glob("nfe2/unet"))
    student = load_denoiser(rehearsal.folder / f"results/students/{method}/seed0/student.safetensors")
    loaded = getattr(diffusers, student.configuration.kind).from_pretrained(unet)
    plan = load_json(folder / "student.json")["plans"]
    assert plan and student.step_condition == (unet.parent.name == "nfe2")
    if not student.step_condition:
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in student.net.state_dict().items())


def test_whole_networks_divided_among_two_processes_end_where_one_ends(rehearsal: TinySuite, tmp_path: Path) -> None:
    """DisBack on SDXL without adapters, recorded and distilled; what is written is whole."""
    if yaml.safe_load((rehearsal.folder / "params.yaml").read_text(encoding="utf-8"))["suite"] != "sdxl":
        pytest.skip("the suite that trains a whole large network is sdxl")
    folder = shutil.copytree(rehearsal.folder, tmp_path / "divided", symlinks=True)
    values = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    values["processes"]["sharded"], method = True, values["score_distillation"]["disback"]
    adam = {"lr": 1e-3, "betas": [0.0, 0.999], "eps": 0.01}  # so that three updates move what float error does not (test_data_parallel.py)
    method |= {"batch": 2, "student": adam, "fake": adam}
    method["recording"] |= {"optimiser": adam}
    (folder / "params.yaml").write_text(as_yaml(values), encoding="utf-8")
    ended = []
    for processes in (1, 2):
        environment = os.environ | {"BACKTRAIL_PROCESSES": str(processes), "GLOO_SOCKET_IFNAME": "lo"}
        for stage in ("latent-path", "latent-one-step"):
            command = [sys.executable, "-m", "backtrail", stage, "--stage", f"{stage}@disback-0"]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            notes = load_json(folder / f"results/records/{stage}@disback-0.json")["notes"]
            assert (notes.get("processes", 1), notes.get("sharded", False)) == (processes, processes > 1)
        nodes = load_path(folder / "results/paths/disback/seed0").nodes
        student = load_denoiser(folder / "results/students/disback/seed0/student.safetensors")
        ended.append([nodes[-1].state_dict(), student.state_dict()])
    for alone, together in zip(*ended, strict=True):
        squares = sum((alone[name] - together[name]).square().sum() for name in alone)
        moved = sum((alone[name] - value).square().sum() for name, value in nodes[0].state_dict().items())
        assert squares < 1e-4 * moved
