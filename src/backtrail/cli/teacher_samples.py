"""`backtrail teacher-samples`: the teacher sampled with its own solvers, the baselines that students are held against."""

import click

from backtrail.cli.torch_stage import torch_stage
from backtrail.data.dataset import to_uint8
from backtrail.nets.build import load_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.sampling import TeacherSamples
from backtrail.sampling.sample import Sampler, sample
from backtrail.tensors import save_tensors
from backtrail.training.progress import progress

TEACHER, SAMPLES = "results/teacher/teacher.safetensors", "results/samples/teacher.safetensors"


@click.command()
def command() -> None:
    """Sample the teacher with each solver at each length; one archive of uint8 images, image i from seed i."""
    p, n_images = section(TeacherSamples, "teacher_samples"), section(Metrics, "metrics").n_samples
    with torch_stage("teacher-samples", __name__, {"teacher_samples": p, "n_images": n_images}, [TEACHER], [SAMPLES]):
        teacher = load_denoiser(TEACHER)
        runs = [
            (name, Sampler(s.solver, num_steps, s.schedule, s.afs, guidance=s.guidance))
            for name, s in p.samplers.items()
            for num_steps in s.num_steps
        ]
        images = {}
        with progress(len(runs), unit="sampler") as tick:
            for done, (name, sampler) in enumerate(runs, start=1):
                images[f"{name}/nfe{sampler.nfe}"] = to_uint8(
                    sample(teacher, sampler, range(n_images), teacher.image_shape, teacher.n_classes)
                )
                tick(done)
        save_tensors(SAMPLES, images, {"method": "teacher", "n_images": n_images, "first_seed": 0, "trained_nfe": []})
