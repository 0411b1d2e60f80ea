"""`backtrail samples`: images of a student."""

import click

from backtrail.data.dataset import to_uint8
from backtrail.nets.build import load_denoiser
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.running.torch_stage import torch_stage
from backtrail.sampling.sample import STATES_SHOWN, sample, sample_states
from backtrail.sampling.student import student_sampling
from backtrail.stages.student import find_student, samplers, source_name
from backtrail.tensors import save_tensors


@click.command()
@click.option("--method", "name", required=True, help="Name of the method in params.yaml.")
@click.option("--seed", required=True, type=click.IntRange(0), help="Seed of the student.")
def command(name: str, seed: int) -> None:
    """Sample a student at each number of evaluations that its parameters name; one archive of uint8 images, image i from seed i.

    Beside it, the whole way from noise of the first images.
    """
    method, n_images = find_student(name), section(Metrics, "metrics").n_drawn
    file, out = f"results/students/{name}/seed{seed}/student.safetensors", f"results/samples/{name}/seed{seed}.safetensors"
    states_out = f"results/states/{name}/seed{seed}.safetensors"
    parameters = {**method.stage_parameters(seed), "n_images": n_images}
    with torch_stage(f"{method.family}-samples@{name}-{seed}", __name__, parameters, [file], [out, states_out]) as stage:
        student = stage.place(load_denoiser(file))
        sampling = student_sampling(file)
        ways, trained = samplers(method.parameters, sampling), sampling.trained_nfe
        images, states, times = {}, {}, {}
        for way in ways:
            key = f"{source_name(way)}/nfe{way.nfe}"
            drawn = sample(student, way, range(n_images), student.image_shape, student.n_classes, device=stage.device)
            images[key], states[key], times[key] = to_uint8(drawn), sample_states(student, way, STATES_SHOWN), way.levels()
        metadata = {"method": name, "seed": seed, "first_seed": 0}
        save_tensors(out, images, {**metadata, "n_images": n_images, "trained_nfe": sorted(trained)})
        save_tensors(states_out, states, {**metadata, "n_images": STATES_SHOWN, "trained_nfe": sorted(trained), "times": times})
