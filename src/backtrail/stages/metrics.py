"""`backtrail metrics`: samples measured."""

from backtrail import layout
from backtrail.artifacts import save_json
from backtrail.metrics.evaluate import evaluate_samplings, protocol
from backtrail.parameters.metrics import Metrics
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.stages.measures import load_measure
from backtrail.tensors import load_tensors
from backtrail.training.progress import progress


@torch_stage
def command(stage: TorchStage) -> None:
    """Measure every set of images in a samples file; writes the values with their protocol."""
    p = stage.section(Metrics, "metrics")
    of = stage.of_method if stage.declared.item else (layout.TEACHER_NAME, None)
    sets, metadata = load_tensors(layout.samples(*of))
    measures = {extractor: load_measure(extractor, stage.device) for extractor in p.extractors}
    values: dict[str, dict[str, dict[str, float]]] = {}
    with progress(len(sets), unit="set") as tick:
        for done, (key, images) in enumerate(sets.items(), start=1):
            sampler, nfe = key.split("/")
            values.setdefault(sampler, {})[nfe] = evaluate_samplings(images, measures, p)
            tick(done)
    seeds = (metadata["first_seed"], metadata["first_seed"] + metadata["n_images"])
    result = {"method": metadata["method"], "values": values, "trained_nfe": metadata["trained_nfe"]}
    seed = {} if of[1] is None else {"seed": of[1]}
    save_json(layout.metrics(*of), {**result, **seed, "protocol": protocol(measures, p, seeds)})
