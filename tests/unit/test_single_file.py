"""Checkpoints of one file, in the names of the original codes: what comes out is the pipeline that they were written from, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from latent_pipelines import sdxl, stable_diffusion
from original_names import Weights, names_of, original
from safetensors.torch import save_file
from torch import Tensor

from backtrail.artifacts import load_json, save_json
from backtrail.data.fetched_folder import MANIFEST
from backtrail.data.latent_sources import LATENT_FILES, LATENT_TEACHERS, teacher_source, weight_files
from backtrail.errors import UserError
from backtrail.parameters.base import validate
from backtrail.parameters.discrete_time import Asked
from backtrail.parameters.latent import LatentTeacher
from backtrail.teachers.diffusers import import_autoencoder, import_diffusers
from backtrail.teachers.single_file import unpack_single_file
from backtrail.teachers.text_encoders import import_text


def described(tmp_path: Path, two: bool) -> tuple[Path, Path, Weights]:
    """A pipeline's folder as it was saved, one with its descriptions alone, and what a single file of it holds."""
    whole, bare = tmp_path / "whole", tmp_path / "bare"
    (sdxl if two else stable_diffusion)(tmp_path / "made").save_pretrained(whole)
    for file in whole.rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            (bare / file.relative_to(whole)).parent.mkdir(parents=True, exist_ok=True)
            (bare / file.relative_to(whole)).write_bytes(file.read_bytes())
    save_json(bare / MANIFEST, {"files": []})
    return whole, bare, original(whole, two)


def said(folder: Path) -> list[Tensor]:
    """What the parts of a pipeline say, each."""
    denoiser = import_diffusers(folder, Asked(time_map="ln-alpha"), latent=True)
    condition = import_text(folder)(["two cats", ""])
    if condition.pooled is not None:
        condition = condition.__class__(tokens=condition.tokens, pooled=condition.pooled, time_ids=torch.zeros(2, 6))
    first = import_autoencoder(folder / "vae")
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert condition.tokens is not None
        return [
            condition.tokens,
            denoiser(noise, torch.tensor(2.0), condition),
            first.decode(noise),
            first.encode(torch.ones(1, 3, 16, 16)),
        ]


@pytest.mark.parametrize("two", [False, True], ids=["sd15", "sdxl"])
def test_the_parts_of_one_file_are_those_of_the_pipeline(tmp_path: Path, two: bool) -> None:
    whole, bare, weights = described(tmp_path, two)
    save_file(weights, tmp_path / "one.safetensors")
    unpack_single_file(tmp_path / "one.safetensors", bare, list(names_of(two).values()))
    for expected, found in zip(said(whole), said(bare), strict=True):
        assert torch.equal(expected, found)
    listed = load_json(bare / MANIFEST)["files"]
    assert [entry["name"] for entry in listed] == list(names_of(two).values())
    assert {(entry["source"], entry["verified"]) for entry in listed} == {("one.safetensors", "converted")}


def test_a_pickle_of_tensors_is_read_and_any_other_is_not_executed(tmp_path: Path) -> None:
    whole, bare, weights = described(tmp_path, two=False)
    torch.save({"state_dict": weights, "global_step": 840000}, tmp_path / "one.ckpt")
    unpack_single_file(tmp_path / "one.ckpt", bare, list(names_of(False).values()))
    assert all(torch.equal(expected, found) for expected, found in zip(said(whole), said(bare), strict=True))
    torch.save({"state_dict": weights, "callbacks": {Path: 1}}, tmp_path / "two.ckpt")
    sentence = refusal(tmp_path / "two.ckpt", bare)
    assert "nothing in it was executed" in sentence and sentence.endswith("take the one that ends in .safetensors")


def refusal(file: Path, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        unpack_single_file(file, folder, list(names_of(False).values()))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_that_are_no_such_checkpoint(tmp_path: Path) -> None:
    _, bare, weights = described(tmp_path, two=False)
    assert "is missing" in refusal(tmp_path / "nowhere.safetensors", bare)
    (tmp_path / "cut.safetensors").write_bytes(b"\0" * 20)
    assert "cannot be read" in refusal(tmp_path / "cut.safetensors", bare)
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    assert "holds nothing of unet/" in refusal(tmp_path / "other.safetensors", bare)
    alone = {name: value for name, value in weights.items() if name.startswith("model.diffusion_model.")}
    save_file(alone, tmp_path / "unet.safetensors")
    assert "holds nothing of vae/" in refusal(tmp_path / "unet.safetensors", bare)


def test_a_weight_that_is_missing_is_named_when_the_part_is_imported(tmp_path: Path) -> None:
    _, bare, weights = described(tmp_path, two=False)
    weights.pop("model.diffusion_model.middle_block.0.in_layers.2.weight")
    save_file(weights, tmp_path / "one.safetensors")
    unpack_single_file(tmp_path / "one.safetensors", bare, list(names_of(False).values()))
    with pytest.raises(UserError, match=r"does not fit its config.json \(missing keys: mid_block.resnets.0.conv1.weight"):
        import_diffusers(bare, latent=True)


def test_the_registry_fetches_one_file_and_what_describes_it() -> None:
    for source, file in (("teacher-sd15", "v1-5-pruned-emaonly.safetensors"), ("teacher-sdxl", "sd_xl_base_1.0.safetensors")):
        names = {entry.name for entry in teacher_source(source, file).files}
        assert names == {entry.name for entry in LATENT_TEACHERS[source].files} - set(weight_files(source))
        assert "unet/config.json" in names and not any(name.endswith(".safetensors") for name in names)
        (known,) = LATENT_FILES[file].files
        assert known.sha256 is not None and LATENT_FILES[file].licence == LATENT_TEACHERS[source].licence


def test_a_teacher_that_diffusers_does_not_convert_is_refused() -> None:
    values: dict[str, Any] = {"source": "teacher-ldm-lsun-bedroom", "local": "data/local", "single_file": "model.ckpt"}
    with pytest.raises(UserError, match="single_file is read for teachers of texts alone"):
        validate(LatentTeacher, values, "latent")
