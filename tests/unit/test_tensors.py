"""Tensor files: the same bytes for the same content, and no damage passes."""

from pathlib import Path

import pytest
import torch

from backtrail.errors import UserError
from backtrail.tensors import load_tensors, save_tensors, tensors_digest

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.uint8), "empty": torch.zeros(0)}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", TENSORS, {"n": 1})
    tensors, metadata = load_tensors(tmp_path / "x.safetensors")
    assert metadata == {"n": 1} and tensors_digest(tensors) == tensors_digest(TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", TENSORS, {"p": 1, "q": 2})
    save_tensors(tmp_path / "y", dict(reversed(TENSORS.items())), {"q": 2, "p": 1})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


@pytest.mark.parametrize("place", range(1, 27))
def test_each_flipped_byte_of_the_content_is_noticed(tmp_path: Path, place: int) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS)
    content = bytearray(path.read_bytes())
    content[-place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.safetensors was damaged after it was written .*chmod"):
        load_tensors(path)


def test_a_cut_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS)
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match="is not a whole safetensors file"):
            load_tensors(path)


def test_a_digest_sees_name_type_shape_and_value() -> None:
    a = torch.zeros(2, 3)
    others = [{"y": a}, {"x": a.double()}, {"x": a.reshape(3, 2)}, {"x": a + 1}, {}]
    assert len({tensors_digest(t) for t in [{"x": a}, *others]}) == 6
