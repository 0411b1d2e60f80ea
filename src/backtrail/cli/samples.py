"""`backtrail samples`: images of a student."""

import click

from backtrail.cli.student import method_parameters, samplers
from backtrail.cli.torch_stage import torch_stage
from backtrail.data.dataset import to_uint8
from backtrail.nets.build import load_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.sampling.sample import sample
from backtrail.tensors import save_tensors


@click.command()
@click.option("--method", required=True, help="Name of the method in params.yaml.")
@click.option("--seed", required=True, type=click.IntRange(0), help="Seed of the student.")
def command(method: str, seed: int) -> None:
    """Sample a student at each number of evaluations that its parameters name; one archive of uint8 images, image i from seed i."""
    p, n_images = method_parameters(method), section(Metrics, "metrics").n_samples
    family = "score" if isinstance(p, ScoreDistillation) else "trajectory"
    file, out = f"results/students/{method}/seed{seed}/student.safetensors", f"results/samples/{method}/seed{seed}.safetensors"
    parameters = {"method": p, "seed": seed, "n_images": n_images}
    with torch_stage(f"{family}-samples@{method}-{seed}", __name__, parameters, [file], [out]):
        student = load_denoiser(file)
        ways, trained = samplers(p)
        indices = range(n_images)
        images = {f"student/nfe{way.nfe}": to_uint8(sample(student, way, indices, student.image_shape, student.n_classes)) for way in ways}
        metadata = {"method": method, "seed": seed, "n_images": n_images, "first_seed": 0, "trained_nfe": sorted(trained)}
        save_tensors(out, images, metadata)
