"""Full-size updates of score distillation: memory against what the nets and Adam need, operations against what `plan` counts."""

from functools import partial

import bench
from gpu_cases import make_case, prepare
from gpu_results import Row, Rows, Settings
from torch.utils.flop_counter import FlopCounterMode

from backtrail.cli.compute_cost import forward_gflop
from backtrail.nets.build import construct_empty
from backtrail.nets.dhariwal import DhariwalConfiguration
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.teachers.published import PUBLISHED
from backtrail.training.data_parallel import Group as Processes

COUNTED = 0.05  # an update's operations against plan's count, which takes every backward pass for two forwards


def memory(s: Settings) -> Rows:
    """Full-size updates of score distillation: memory against what the nets need, operations against plan's count."""
    cifar, imagenet = PUBLISHED["edm-cifar10-32x32-uncond-vp"], PUBLISHED["edm-imagenet-64x64-cond-adm"]
    if s.tiny:
        shape = {"img_resolution": 8, "model_channels": 8, "num_blocks": 1, "in_channels": 3, "out_channels": 3, "channel_mult": (1, 2)}
        cifar = EDMTeacher(preconditioning=EDM(), net=SongUNetConfiguration(**shape))
        imagenet = EDMTeacher(preconditioning=EDM(), net=DhariwalConfiguration(**shape, label_dim=10))

    def row(chosen: EDMTeacher, batch: int, micro_batch: int | None) -> Row:
        prepare(s.on, "tf32")
        case = make_case(s.params, "diff-instruct", chosen, batch, s.on)
        case.state.group = Processes(micro_batch=micro_batch)
        case.update(0)
        peak_mb = bench.peak_mb(s.on)
        with FlopCounterMode(display=False) as counter:
            case.update(1)
        empty = construct_empty(chosen, "the published network")
        n_weights = sum(weight.numel() for weight in empty.parameters())
        # The teacher, the student with its average, the fake score, two moments for each of the trained ones, one gradient at a time.
        counted_mb = 9 * 4 * n_weights / 1e6
        forwards = case.ideal(0) + (micro_batch is not None)
        counted = forwards * batch * forward_gflop(empty) / 1e3
        found = counter.get_total_flops() / 1e12
        error = abs(found - counted) / counted
        return {
            "error": error, "of": "operations", "bound": COUNTED, "within": error <= COUNTED and peak_mb >= counted_mb,
            "batch": batch, "micro_batch": micro_batch or batch, "peak_mb": peak_mb, "nets_mb": counted_mb,
            "activations_mb": peak_mb - counted_mb, "counted_tflop": counted, "found_tflop": found,
        }  # fmt: skip

    batches = {"cifar10": (4, None), "imagenet64": (4, None), "imagenet64, in parts": (4, 2)} if s.tiny else {
        "cifar10": (128, None), "imagenet64": (32, None), "imagenet64, in parts": (256, 32)
    }  # fmt: skip
    return {f"memory, {name}": partial(row, cifar if name == "cifar10" else imagenet, *sizes) for name, sizes in batches.items()}


KEYS = ("memory, cifar10", "memory, imagenet64", "memory, imagenet64, in parts")
