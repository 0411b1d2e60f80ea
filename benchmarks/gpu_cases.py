"""The methods' updates on networks of EDM's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import bench
import torch
from updates import CASES, Case, Setup

from backtrail.denoiser import NetDenoiser
from backtrail.nets.build import construct
from backtrail.nets.edm import EDMTeacher
from backtrail.parameters.runtime import Runtime
from backtrail.running.torch_stage import configure


def prepare(device: torch.device, precision: str = "float32", compiled: bool = False) -> None:
    """This process as a stage with that precision has it."""
    configure(Runtime(threads=torch.get_num_threads(), precision=precision, compile=compiled), device)


@contextmanager
def built_as(chosen: EDMTeacher) -> Iterator[None]:
    """The methods' nets inside the block are this one."""

    def build(_: object, sigma_data: float, seed: int = 0) -> NetDenoiser:
        return construct(chosen, seed)

    with mock.patch("updates.build", build), mock.patch("backtrail.teachers.train.build", build):
        yield


def make_case(params: Path, method: str, chosen: EDMTeacher, batch: int, device: torch.device) -> Case:
    """A method's update on a network of EDM's, with dropout in score distillation, as on CIFAR-10."""
    base, net = bench.setup(params, "tiny", device), chosen.net
    shape = base.net.model_copy(update={"image_channels": 3, "resolution": net.img_resolution, "n_classes": net.label_dim})
    score = {name: p.model_copy(update={"dropout": True}) for name, p in base.score.items()}
    with built_as(chosen):
        return CASES[method](Setup(base.teacher, score, base.trajectory, shape, batch, device))
