"""Networks divided among two processes: the runs of one process beyond float error, killed and taken up, whole on the disk."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from backtrail.conditions import Condition
from backtrail.data.dataset import Labelled
from backtrail.denoiser import NetDenoiser
from backtrail.errors import Interrupted
from backtrail.methods.disback import distillation as score_distillation
from backtrail.methods.disback.offloaded import offloaded
from backtrail.methods.disback.path import DegradationPath, Origin
from backtrail.methods.disback.recording import record
from backtrail.methods.sfd import distillation as trajectory_distillation
from backtrail.methods.sfd.trajectories import Pool
from backtrail.nets.build import construct
from backtrail.nets.discrete_time import DiffusersTeacher
from backtrail.nets.sharded import BLOCKS, Sharded, divide, gathered, own_part
from backtrail.parameters.base import validate
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.teachers.latent_texts import LatentPrompts
from backtrail.tensors import load_tensors
from backtrail.training.data_parallel import ALONE, Group
from backtrail.training.loop import Execution
from backtrail.training.scratch import Scratch
from backtrail.training.sharded import ShardedGroup, ShardedScratch
from unit.test_data_parallel import ADAM, differing

pytestmark = pytest.mark.slow
STEPS, BATCH, PROCESSES = 4, 4, 2
UNET = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": [8], "layers_per_block": 1, "mid_block_type": None,
    "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["UpBlock2D"], "cross_attention_dim": 16, "attention_head_dim": 4,
    "norm_num_groups": 4,
}  # fmt: skip
Place = Callable[[NetDenoiser], NetDenoiser]
Weights = dict[str, Tensor]


def teacher() -> NetDenoiser:
    """A tiny network of Stable Diffusion's kind, told one of five captions."""
    made = construct(DiffusersTeacher(kind="UNet2DConditionModel", unet=UNET), seed=1).eval().requires_grad_(False)
    rows = torch.arange(5)
    tokens = torch.randn(6, 3, 16, generator=torch.Generator().manual_seed(0)).half()
    made.told = LatentPrompts(("a", "b", "c", "d", "e"), tokens, None, rows, rows, rows, None)
    return made


def whole_state(denoiser: NetDenoiser) -> Weights:
    return gathered(denoiser.state_dict(), keep=True)


def same_place(denoiser: NetDenoiser) -> NetDenoiser:
    return denoiser


def recorded(place: Place, execution: Execution) -> DegradationPath:
    recording = {"steps": STEPS, "nodes": 2, "optimiser": ADAM | {"clip": 0.1}, "evaluation_batch": 4}
    p = validate(ScoreDistillation, {"updates": 99, "batch": BATCH, "student": ADAM, "fake": ADAM, "recording": recording}, "method")
    data = Labelled(torch.zeros(4, 4, 8, 8), torch.arange(4))
    return record(Origin(teacher()).placed(place), p, data, 0, execution)[0]


def of_recording(place: Place, execution: Execution) -> Weights:
    return whole_state(recorded(place, execution).nodes[-1])


@functools.cache
def path_on_disk() -> DegradationPath:
    """What `latent-one-step` is handed: recorded by one process."""
    return recorded(same_place, Execution())


def of_distillation(place: Place, execution: Execution) -> Weights:
    """DisBack along a recorded path under guidance, with DMD's order and repair: as `suites/sdxl` has it."""
    values = {
        "updates": STEPS, "batch": BATCH, "student": ADAM | {"clip": 0.1}, "fake": ADAM, "average": {"half_life": 8.0}, "node_updates": 2,
        "recording": {"steps": 2, "nodes": 2, "optimiser": ADAM}, "nan_to_num": True, "teacher_guidance": 2.0, "order": "student-first",
        "fake_per_student": 2, "weighting": "dmd", "snapshots": [0, 2],
    }  # fmt: skip
    p = validate(ScoreDistillation, values, "method")
    path = offloaded(path_on_disk(), place)
    state = score_distillation.distil(path, p, 0, lambda student: measured(student), execution)
    assert state.repaired == 0 and {row["node"] for row in state.rows} == {0, 1}
    kept = {"student": whole_state(state.modules["student"]), "average": gathered(state.averages["student"], keep=True)}
    kept |= {name: gathered(weights, keep=True) for name, weights in state.snapshots.items()}
    return {f"{kind}.{name}": value for kind, weights in kept.items() for name, value in weights.items()}


def of_trajectories(place: Place, execution: Execution) -> Weights:
    values = {"rounds": STEPS, "batch": BATCH, "pool": 4, "optimiser": ADAM, "inputs": "trajectory", "cached": False}
    p = validate(TrajectoryDistillation, values, "method")
    state = trajectory_distillation.distil(Pool(place(teacher()), p), 0, lambda student: measured(student), execution)
    return whole_state(state.modules["student"])


RUNS = {"recording": of_recording, "score distillation": of_distillation, "trajectory distillation": of_trajectories}


@torch.no_grad()
def measured(student: NetDenoiser) -> float:
    """An evaluation, for which a divided student has to be put together."""
    return student(*a_question(student)).norm().item()


def a_question(student: NetDenoiser) -> tuple[Tensor, Tensor, Condition | None]:
    return torch.ones(2, 4, 8, 8), torch.tensor(1.0), student.condition_of_images([0, 1])


def meet(rank: int, folder: Path, name: str) -> Place:
    """Join the group; returns what divides a denoiser among it."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/{name}", rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    return lambda denoiser: denoiser if isinstance(denoiser, Sharded) else divide(denoiser, mesh)


def run_all(rank: int, folder: Path) -> None:
    """Each run in one process of a group, a kill among them; the first process writes what came of it."""
    place = meet(rank, folder, "meeting")
    found = {}
    os.environ["BACKTRAIL_SAVE_EVERY_S"] = "0"  # each process wishes to save after each update, and all do after the first
    for name, run in RUNS.items():
        scratch = ShardedScratch(Scratch(folder / f"periodic-{name}", writes=rank == 0))
        found |= {f"{name}/{k}": v for k, v in run(place, Execution(scratch, ShardedGroup(rank, PROCESSES, 1, scratch))).items()}
    os.environ["BACKTRAIL_SLICE_S"] = "0"  # stops after each update, with the state saved
    for _ in range(STEPS):
        plain = Scratch(folder / "slices", writes=rank == 0)
        scratch = ShardedScratch(plain)
        try:
            ended = of_distillation(place, Execution(scratch, ShardedGroup(rank, PROCESSES, None, scratch)))
        except Interrupted:
            distributed.barrier()
    found |= {f"resumed/{k}": v for k, v in ended.items()}
    divided = place(teacher())
    parameters = [*divided.net.parameters()]
    divided.autocast = torch.bfloat16
    found["in bfloat16"] = divided(*a_question(divided)).detach()
    divided.autocast = None
    for _ in range(3):
        measured(divided)
    order = divided.net._get_fsdp_state()._comm_ctx.post_forward_order
    assert not order  # torch's own list, which would grow until a backward pass
    found["parts"] = torch.tensor([sum(own_part(v).numel() for v in parameters), sum(v.numel() for v in parameters)])
    assert all(isinstance(parameter, DTensor) for parameter in parameters) and plain.resumed_from == STEPS - 1
    found["repaired"] = torch.tensor(repaired(divided.requires_grad_(True), rank))
    if rank == 0:
        save_file({name: value.contiguous() for name, value in found.items()}, folder / "found.safetensors")
    distributed.destroy_process_group()


def repaired(divided: NetDenoiser, rank: int) -> int:
    """How many values DMD's repair replaces where the last process has two that are not finite, and the first one."""
    divided(*a_question(divided)).square().sum().backward()
    weight = next(parameter for name, parameter in divided.named_parameters() if name == "net.conv_in.weight")
    own_part(weight.grad).view(-1)[: 1 + rank] = float("nan")
    found = score_distillation._repair(divided)
    assert all(bool(own_part(parameter.grad).isfinite().all()) for parameter in divided.parameters())
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    multiprocessing.start_processes(run_all, (folder,), nprocs=PROCESSES, start_method="spawn")
    return folder


@pytest.fixture(scope="module")
def found(ran: Path) -> dict[str, Tensor]:
    return load_file(ran / "found.safetensors")


def part_of(found: dict[str, Tensor], name: str) -> Weights:
    return {key.removeprefix(f"{name}/"): value for key, value in found.items() if key.startswith(f"{name}/")}


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_with_parts_agree_with_one_with_the_whole(name: str, found: dict[str, Tensor]) -> None:
    alone = RUNS[name](same_place, Execution())
    assert differing(alone, part_of(found, name)) < 1e-5
    start = whole_state(teacher())
    assert differing(start, {key: value for key, value in alone.items() if key in start} or start | alone_student(alone)) > 1e-4


def alone_student(weights: Weights) -> Weights:
    return {name.removeprefix("student."): value for name, value in weights.items() if name.startswith("student.")}


def test_a_divided_run_that_is_killed_after_each_update_ends_alike(found: dict[str, Tensor]) -> None:
    """Two networks, their optimisers, an average and snapshots."""
    assert differing(part_of(found, "score distillation"), part_of(found, "resumed")) < 1e-6


def test_a_wish_of_any_clock_is_a_save_of_all(ran: Path) -> None:
    """Gathering takes time, so that wishes are not heard for a while after: one save in these few updates, after the first of them."""
    for name in RUNS:
        (state,) = (ran / f"periodic-{name}").glob("step-*.safetensors")
        assert state.name == "step-000000002.safetensors"


def test_products_in_half_precision_are_those_of_the_whole(found: dict[str, Tensor]) -> None:
    alone = teacher()
    exact = alone(*a_question(alone))
    alone.autocast = torch.bfloat16
    shortened = alone(*a_question(alone))
    assert torch.equal(shortened, found["in bfloat16"]) and not torch.equal(shortened, exact)


def test_a_process_holds_half_of_the_weights(found: dict[str, Tensor]) -> None:
    part, whole = found["parts"].tolist()
    assert 0.45 < part / whole < 0.6  # parts of a first dimension that is odd are unequal


def test_one_process_takes_up_what_two_have_left(ran: Path, found: dict[str, Tensor], tmp_path: Path) -> None:
    """The state on the disk is whole: tensors of the full shapes, under the names of a run of one process."""
    newest = max((ran / "slices").glob("step-*.safetensors"))
    tensors, _ = load_tensors(newest)
    scratch = Scratch(tmp_path / "alone")
    with pytest.MonkeyPatch.context() as patch:
        path_on_disk()
        patch.setenv("BACKTRAIL_SLICE_S", "0")
        with pytest.raises(Interrupted):
            of_distillation(same_place, Execution(scratch, ALONE))
    own, _ = load_tensors(next((tmp_path / "alone").glob("step-*.safetensors")))
    assert all(tensors[name].shape == value.shape for name, value in own.items())
    assert all(name.startswith("snapshot/") for name in set(tensors) - set(own))  # of later updates
    taken = Scratch(ran / "slices", writes=False)
    ended = of_distillation(same_place, Execution(taken, Group()))
    assert taken.resumed_from == STEPS - 1
    assert differing(part_of(found, "resumed"), ended) < 1e-5


def test_what_is_not_finite_is_repaired_and_each_process_counts_its_part(found: dict[str, Tensor]) -> None:
    """Of three values one lies in the first process's part, which writes the record."""
    assert found["repaired"].item() == 1


def test_the_blocks_are_those_of_the_library() -> None:
    """A class that diffusers calls otherwise one day would be gathered with all the rest at once, and nobody would see it."""
    names = {type(module).__name__ for module in teacher().net.modules()}
    assert set(BLOCKS) <= names
