"""`backtrail metrics`: samples measured."""

import click

from backtrail.artifacts import save_json
from backtrail.metrics.evaluate import evaluate_samplings, protocol
from backtrail.parameters.base import section
from backtrail.parameters.metrics import Metrics
from backtrail.running.torch_stage import torch_stage
from backtrail.stages.measures import load_measure, reference_file, weights_files
from backtrail.stages.student import find_student
from backtrail.tensors import load_tensors
from backtrail.training.progress import progress


@click.command()
@click.option("--method", default=None, help="Name of the method in params.yaml; without it, the teacher's samples.")
@click.option("--seed", default=None, type=click.IntRange(0), help="Seed of the student.")
def command(method: str | None, seed: int | None) -> None:
    """Measure every set of images in a samples file; writes the values with their protocol."""
    if (method is None) != (seed is None):
        raise click.UsageError("--method and --seed go together")
    p = section(Metrics, "metrics")
    name, stage_name = "teacher", "teacher-metrics"
    if method is not None:
        name, stage_name = f"{method}/seed{seed}", f"{find_student(method).family}-metrics@{method}-{seed}"
    samples, out = f"results/samples/{name}.safetensors", f"results/metrics/{name}.json"
    inputs = [samples, *weights_files(p.extractors), *map(reference_file, p.extractors)]
    with torch_stage(stage_name, __name__, {"metrics": p}, inputs, [out]) as stage:
        sets, metadata = load_tensors(samples)
        measures = {extractor: load_measure(extractor, stage.device) for extractor in p.extractors}
        values: dict[str, dict[str, dict[str, float]]] = {}
        with progress(len(sets), unit="set") as tick:
            for done, (key, images) in enumerate(sets.items(), start=1):
                sampler, nfe = key.split("/")
                values.setdefault(sampler, {})[nfe] = evaluate_samplings(images, measures, p)
                tick(done)
        seeds = (metadata["first_seed"], metadata["first_seed"] + metadata["n_images"])
        result = {"method": metadata["method"], "values": values, "trained_nfe": metadata["trained_nfe"]}
        save_json(out, {**result, **({"seed": seed} if seed is not None else {}), "protocol": protocol(measures, p, seeds)})
