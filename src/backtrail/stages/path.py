"""`backtrail path`: degradation recording (DisBack, Algorithm 1)."""

from backtrail import layout
from backtrail.data.dataset import load_dataset, to_float
from backtrail.methods.disback.path import save_path
from backtrail.methods.disback.recording import record
from backtrail.nets.build import load_denoiser
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.running.torch_stage import TorchStage, distributed_stage


@distributed_stage
def command(stage: TorchStage) -> None:
    """Record the degradation path of a student: the teacher is fitted to the initial student's samples, nodes are kept on the way."""
    p = stage.section(ScoreDistillation, f"score_distillation.{stage.method}")
    dataset, teacher = load_dataset(layout.DATASET), stage.place(load_denoiser(layout.TEACHER))
    shape = tuple(dataset.train_images.shape[1:])
    data, labels = to_float(dataset.test_images[:1024]), dataset.test_labels[:1024]
    nodes, rows, recording = record(teacher, p, shape, data, stage.seed, stage.scratch, None, labels, stage.group)
    if stage.writes:
        save_path(layout.path(*stage.of_method), nodes, rows, recording)
        stage.record.notes |= recording
