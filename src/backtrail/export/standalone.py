"""Draw images from the student that lies beside this file: `python sample.py --images 16 --nfe 1`. It needs torch and nothing else.

`student.pt2` is the student as a program of torch.export: D(x, sigma) -> x0, with what it may know beside (labels, steps). `student.json`
holds its shape, classes, and a plan for each number of network evaluations: noise levels, what unit noise is
scaled by at the start, and whether the first step is the analytical one.
Image i depends on seed i alone. On a GPU: `torch.export.passes.move_to_device_pass(torch.export.load(...), "cuda")`.
"""

import argparse
import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
CHUNK = 64  # images per forward: another number changes the last digits


def generator(seed: int, purpose: str) -> torch.Generator:
    """The generator of one image's noise or label."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/0/0".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def load(folder: Path = HERE) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The student's program and what `student.json` says of it."""
    return torch.export.load(folder / "student.pt2").module(), json.loads((folder / "student.json").read_text(encoding="utf-8"))


@torch.no_grad()
def draw(program: Callable[..., Tensor], about: dict[str, Any], images: range, nfe: int | None = None) -> Tensor:
    """Images [len(images), *shape] in [-1, 1]; nfe: network evaluations per image, one of about["plans"] (the first by default)."""
    plan = about["plans"][str(nfe)] if nfe else next(iter(about["plans"].values()))
    parts = []
    for first in range(images.start - images.start % CHUNK, images.stop, CHUNK):
        seeds = range(first, first + CHUNK)
        noise = torch.stack([torch.randn(about["shape"], generator=generator(i, "image")) for i in seeds])
        known: dict[str, Tensor] = {}
        if about["n_classes"]:
            known["labels"] = torch.cat([torch.randint(about["n_classes"], (1,), generator=generator(i, "label")) for i in seeds])
        if plan["steps"]:
            known["steps"] = torch.full((CHUNK,), float(plan["steps"]))
        x0 = walk(program, noise, plan, known)
        parts.append(x0[max(images.start - first, 0) : images.stop - first])
    return torch.cat(parts)


def walk(program: Callable[..., Tensor], noise: Tensor, plan: dict[str, Any], known: dict[str, Tensor]) -> Tensor:
    """Unit noise -> x0 by Euler steps on the plan's noise levels; the last may be 0, where the estimate itself is the image."""
    levels = plan["sigmas"]
    x = (plan["start"] * noise.double()).to(noise.dtype)
    for step, (t, t_next) in enumerate(pairwise(levels)):
        if plan["afs"] and step == 0:  # the analytical first step: far from the data x is nearly all noise
            denoised = x * torch.tensor(1 - t / (1 + t**2) ** 0.5, dtype=x.dtype)
        else:
            denoised = program(x, torch.tensor(t, dtype=x.dtype), **known)
        x = torch.lerp(denoised, x, t_next / t)
    return x


def save(images: Tensor, path: str | Path) -> None:
    """Images [n, 1 or 3, H, W] in [-1, 1], one below the other, as a PNG."""
    pixels = (images * 127.5 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).flatten(0, 1)  # [n H, W, C]
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in pixels)
    head = struct.pack(">2I5B", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    packed = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks]
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def main() -> None:
    """Write `samples.png`."""
    parser = argparse.ArgumentParser(description="Draw images from the student beside this file.")
    parser.add_argument("--images", type=int, default=16, help="how many, from seed 0 on")
    parser.add_argument("--nfe", type=int, help="network evaluations per image")
    options = parser.parse_args()
    program, about = load()
    if options.nfe and str(options.nfe) not in about["plans"]:
        parser.error(f"--nfe is one of {', '.join(about['plans'])}")
    if about["shape"][0] not in (1, 3):
        parser.error("this student makes points, no images: the card beside it has lines that write them")
    save(draw(program, about, range(options.images), options.nfe), "samples.png")


if __name__ == "__main__":
    main()
