"""`backtrail path`: degradation recording (DisBack, Algorithm 1)."""

from backtrail import layout
from backtrail.data.dataset import Labelled, load_dataset, to_float
from backtrail.methods.disback import family
from backtrail.methods.disback.path import save_path
from backtrail.methods.disback.recording import record
from backtrail.nets.build import load_denoiser
from backtrail.parameters.score_distillation import PathParameters, ScoreDistillation
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.training.loop import Execution


@distributed_stage
def command(stage: TorchStage) -> None:
    """Record the degradation path of a student: the teacher is fitted to the initial student's samples, nodes are kept on the way."""
    p = stage.part(PathParameters, ScoreDistillation, f"score_distillation.{stage.method}")
    start = next((key.removeprefix("start.") for key in stage.declared.params if key.startswith("start.")), None)
    student = layout.student(start, stage.seed) if start else None
    origin, dataset = family.origin(load_denoiser(layout.TEACHER), student, p).placed(stage.place), load_dataset(layout.DATASET)
    data = Labelled(to_float(dataset.test_images[:1024]), dataset.test_labels[:1024])
    path, recording = record(origin, p, data, stage.seed, Execution(stage.scratch, stage.group))
    if stage.writes:
        save_path(layout.path(*stage.of_method), path, recording)
        stage.record.notes |= recording
