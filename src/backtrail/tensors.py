"""Tensors as files: safetensors with a JSON header. Apart from `artifacts.py`, so that a figure need not load torch."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from backtrail.artifacts import atomic_write
from backtrail.errors import UserError


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors and a JSON-able `metadata` mapping as one safetensors file, with a digest of the tensors in its header."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One key: safetensors writes several in an order that changes from run to run.
    header = {"backtrail": json.dumps({"metadata": metadata or {}, "sha256": tensors_digest(contiguous)}, sort_keys=True)}
    atomic_write(path, lambda file: _save_file(file, contiguous, header))


def load_tensors(path: str | Path, digested: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back what `save_tensors` wrote: the tensors (on the CPU) and the metadata.

    digested: False for a file that others wrote, or whose caller checks its content by another digest.

    Raises UserError if the file is absent, is no whole safetensors file, has no digest, or does not hold what its digest says: DVC trusts
    the write-protected copies in its cache, so a bit that flips there would come back unnoticed with every checkout.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("backtrail", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage that makes it (`dvc repro`), or `dvc pull`") from None
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): delete it and run the stage again") from None
    if not digested:
        return tensors, header.get("metadata", {})
    written = str(header.get("sha256", "none"))
    if (found := tensors_digest(tensors)) != written:
        raise UserError(
            f"{path} was damaged after it was written (content {found[:12]}, its header says {written[:12]}): "
            "delete it, `chmod -R u+w .dvc/cache` so that DVC checks its own copies again, and run `dvc repro`"
        )
    return tensors, header.get("metadata", {})


def _save_file(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """safetensors' own writing, with its errors of the file system as the OSError that the rest of Python raises."""
    try:
        safetensors.torch.save_file(dict(tensors), path, metadata=header)
    except safetensors.SafetensorError as error:
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(number := int(found[1]), os.strerror(number), str(path)) from error
        raise


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes: equal digests are equal tensors, whatever file they lie in."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha.hexdigest()
