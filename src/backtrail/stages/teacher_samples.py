"""`backtrail teacher-samples`: the teacher sampled with its own solvers, the baselines that students are held against."""

import click

from backtrail.data.dataset import to_uint8
from backtrail.nets.build import load_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.sampling import TeacherSamples
from backtrail.running.torch_stage import torch_stage
from backtrail.sampling.sample import STATES_SHOWN, Sampler, sample, sample_states
from backtrail.tensors import save_tensors
from backtrail.training.progress import progress

TEACHER, SAMPLES, STATES = (
    "results/teacher/teacher.safetensors",
    "results/samples/teacher.safetensors",
    "results/states/teacher.safetensors",
)


@click.command()
def command() -> None:
    """Sample the teacher with each solver at each length; one archive of uint8 images, image i from seed i.

    Beside it, the whole way from noise of the first images, of the reference sampler.
    """
    p, n_images = section(TeacherSamples, "teacher_samples"), section(Metrics, "metrics").n_drawn
    with torch_stage("teacher-samples", __name__, {"teacher_samples": p, "n_images": n_images}, [TEACHER], [SAMPLES, STATES]) as stage:
        teacher = stage.place(load_denoiser(TEACHER))
        runs = [
            (name, Sampler(s.solver, num_steps, s.schedule, s.afs, guidance=s.guidance, threshold=s.threshold, within=teacher.noise_range))
            for name, s in p.samplers.items()
            for num_steps in s.num_steps
        ]
        images, states, times = {}, {}, {}
        with progress(len(runs), unit="sampler") as tick:
            for done, (name, sampler) in enumerate(runs, start=1):
                key = f"{name}/nfe{sampler.nfe}"
                drawn = sample(teacher, sampler, range(n_images), teacher.image_shape, teacher.n_classes, device=stage.device)
                images[key] = to_uint8(drawn)
                if name == p.reference:
                    states[key], times[key] = sample_states(teacher, sampler, STATES_SHOWN), sampler.levels()
                tick(done)
        metadata = {"method": "teacher", "first_seed": 0}
        save_tensors(SAMPLES, images, {**metadata, "n_images": n_images, "trained_nfe": []})
        save_tensors(STATES, states, {**metadata, "n_images": STATES_SHOWN, "times": times})
