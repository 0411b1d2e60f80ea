"""CIFAR-10 from its official binary archive.

The authors publish the same pixels three times. The Python version is pickles; the binary version is records of fixed length
(one label byte, then 3072 pixel bytes, channel by channel, row by row), so there is nothing to execute and nothing to restrict.
"""

import tarfile
import zlib
from pathlib import Path

import numpy as np

from backtrail.data.pack import Images, Rows
from backtrail.errors import UserError

ARCHIVE = "cifar-10-binary.tar.gz"
SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32
TRAIN = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
TEST = ("test_batch.bin",)


def cifar10(raw: str | Path, records_per_file: int = 10_000) -> Images:
    """The two splits as uint8 [N, 3, 32, 32]. Raises UserError for an archive that is cut or whose records are not as published."""
    path = Path(raw) / ARCHIVE
    blobs = _read(path, records_per_file * RECORD_BYTES)
    return Images(shape=SHAPE, n_classes=10, train=_rows(path, blobs, TRAIN), test=_rows(path, blobs, TEST))


def _read(path: Path, size_bytes: int) -> dict[str, bytes]:
    """The six record files, in one pass; no other member is read."""
    blobs: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|gz") as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if name not in TRAIN + TEST or name in blobs:
                    continue
                if not member.isreg() or member.size != size_bytes:
                    raise UserError(f"{path}: {name} is no file of {size_bytes} bytes ({member.size}): get the archive again")
                stream = tar.extractfile(member)
                blobs[name] = stream.read() if stream else b""
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage `fetch`") from None
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{path} is not a whole tar archive ({error}): get it again") from None
    if absent := [name for name in TRAIN + TEST if len(blobs.get(name, b"")) != size_bytes]:
        raise UserError(f"{path} holds no whole {', '.join(absent)}: get it again")
    return blobs


def _rows(path: Path, blobs: dict[str, bytes], names: tuple[str, ...]) -> Rows:
    records = np.concatenate([np.frombuffer(blobs[name], np.uint8).reshape(-1, RECORD_BYTES) for name in names])
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise UserError(f"{path}: a record of {names[0]} and on has label {labels.max()}, expected 0 to 9")
    return Rows.of(records[:, 1:].reshape(-1, *SHAPE), labels)
