"""`backtrail ring-teacher`: the denoiser of a ring of Gaussians, and how near to the law it is."""

import torch

from backtrail import layout
from backtrail.artifacts import save_json
from backtrail.data.ring import SHAPE, Ring
from backtrail.metrics.wasserstein import sliced_wasserstein
from backtrail.nets.build import save_denoiser
from backtrail.parameters.ring import RingEvaluation, RingLaw
from backtrail.parameters.sampling import Schedule
from backtrail.parameters.teacher import Teacher
from backtrail.randomness import Draw
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.sampling.sample import Sampler
from backtrail.teachers.ring import ring_teacher


@torch_stage
def command(stage: TorchStage) -> None:
    """Train the teacher on exact draws of the ring; measure its samples' distance to the ring, and that of the ring to itself (floor)."""
    law, p, e = stage.section(RingLaw, "ring"), stage.section(Teacher, "teacher"), stage.section(RingEvaluation, "evaluation")
    ring = Ring(**law.model_dump())
    teacher = ring_teacher(ring, p, stage.scratch).cpu()
    save_denoiser(layout.TEACHER, teacher)
    reference = ring.points(e.n_points, 0, "reference")
    pairs = [sliced_wasserstein(ring.points(e.n_points, seed, "floor"), reference) for seed in range(e.n_floor)]
    with torch.no_grad():
        sampler = Sampler("heun", e.teacher_num_steps, Schedule())
        samples = sampler(teacher, Draw(0, "teacher-samples").normal((e.n_points, *SHAPE)))
    values = {"sliced_w2_floor": sum(pairs) / len(pairs), "sliced_w2_teacher": sliced_wasserstein(samples, reference)}
    save_json(layout.TEACHER_VALUES, values)
