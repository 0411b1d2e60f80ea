"""`backtrail ring-teacher`: the denoiser of a ring of Gaussians, and how near to the law it is."""

import click
import torch

from backtrail.artifacts import save_json
from backtrail.data.ring import SHAPE, Ring
from backtrail.metrics.wasserstein import sliced_wasserstein
from backtrail.nets.build import save_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.ring import RingEvaluation, RingLaw
from backtrail.parameters.sampling import Schedule
from backtrail.parameters.teacher import Teacher
from backtrail.randomness import Draw
from backtrail.running.torch_stage import torch_stage
from backtrail.sampling.sample import Sampler
from backtrail.teachers.ring import ring_teacher

TEACHER, METRICS = "results/teacher/teacher.safetensors", "results/teacher/metrics.json"


@click.command()
def command() -> None:
    """Train the teacher on exact draws of the ring; measure its samples' distance to the ring, and that of the ring to itself (floor)."""
    law, p, e = section(RingLaw, "ring"), section(Teacher, "teacher"), section(RingEvaluation, "evaluation")
    with torch_stage("ring-teacher", __name__, {"ring": law, "teacher": p, "evaluation": e}, [], [TEACHER, METRICS]) as stage:
        ring = Ring(**law.model_dump())
        teacher = ring_teacher(ring, p, stage.scratch).cpu()
        save_denoiser(TEACHER, teacher)
        reference = ring.points(e.n_points, 0, "reference")
        pairs = [sliced_wasserstein(ring.points(e.n_points, seed, "floor"), reference) for seed in range(e.n_floor)]
        with torch.no_grad():
            sampler = Sampler("heun", e.teacher_num_steps, Schedule())
            samples = sampler(teacher, Draw(0, "teacher-samples").normal((e.n_points, *SHAPE)))
        values = {"sliced_w2_floor": sum(pairs) / len(pairs), "sliced_w2_teacher": sliced_wasserstein(samples, reference)}
        save_json(METRICS, values)
