"""A file of `torch.save` with tensors by name, taken apart within a budget before torch itself reads it.

torch's own reader executes nothing either (`weights_only`), but it sets no limit: a file below a megabyte can have one list copied three
hundred times.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backtrail.teachers.budget import Budget
from backtrail.teachers.pickled_tensors import DTYPES, TENSOR_WORK, known_names, storage_header
from backtrail.teachers.reader import Blob, Reader, Refused
from backtrail.teachers.unpickle import Machine, Name

# Complex weights are for whoever knows the network to refuse, who can name them.
ALL_DTYPES = DTYPES | {"ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128}


class _StateDict(Machine):
    """Tensors by name: an ordered dict with one attribute, the versions of the modules that they are of, which is dropped."""

    def build(self) -> None:
        if [type(value) for value in self.stack[-2:]] == [dict, dict]:
            self.pop()
        else:
            super().build()


def check_work(path: Path) -> None:
    """Raises Refused unless torch can read the file within an import's budget: its pickle names tensors of storages that are there."""
    if not zipfile.is_zipfile(path):
        raise Refused("it is no zip as torch writes since version 1.6: load it with the program that wrote it, and save it as safetensors")
    size = path.stat().st_size
    budget = Budget(size)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED or info.file_size > size for info in members.values()):
            raise Refused("it is a zip with compressed members, which torch does not write")
        found = [name for name in members if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise Refused(f"it is a zip with {len(found)} pickles, expected the one that torch writes")
        content = archive.read(found[0])

    def storage(value: Any) -> Tensor:
        budget.spend(TENSOR_WORK)
        header = storage_header(value, ALL_DTYPES)
        member = members.get(f"{found[0].removesuffix('data.pkl')}data/{header.key}")
        if member is None or member.file_size != header.n * header.dtype.itemsize:
            raise Refused("it holds a storage whose numbers are not there")
        return torch.empty(header.n, dtype=header.dtype, device="meta")

    names = known_names(budget) | {("torch", title): Name(title) for title in ALL_DTYPES}
    _StateDict(Reader(Blob(io.BytesIO(content), 0, len(content))), names, budget, persistent=storage).run()
