"""`backtrail metrics`: samples measured."""

from backtrail import layout
from backtrail.artifacts import save_json
from backtrail.metrics.evaluate import evaluate_archive
from backtrail.metrics.measures import load_measure
from backtrail.parameters.metrics import Metrics
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.tensors import load_tensors
from backtrail.training.progress import progress


@torch_stage
def command(stage: TorchStage) -> None:
    """Measure every set of images in a samples file; writes the values with their protocol."""
    p = stage.section(Metrics, "metrics")
    of = stage.of_method if stage.declared.item else (layout.TEACHER_NAME, None)
    sets, metadata = load_tensors(layout.samples(*of))
    measures = {extractor: load_measure(extractor, stage.device) for extractor in p.extractors}
    with progress(len(sets), unit="set") as tick:
        values, protocol = evaluate_archive(sets, metadata, measures, p, tick)
    result = {"method": metadata["method"], "values": values, "trained_nfe": metadata["trained_nfe"], "protocol": protocol}
    save_json(layout.metrics(*of), result if of[1] is None else result | {"seed": of[1]})
