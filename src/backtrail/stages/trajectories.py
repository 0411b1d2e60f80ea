"""`backtrail trajectories`: what a trajectory student is taught."""

from backtrail import layout
from backtrail.data.dataset import Labelled, load_dataset
from backtrail.methods.sfd.trajectories import Pool
from backtrail.nets.build import load_denoiser
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.running.torch_stage import TorchStage, torch_stage


@torch_stage
def command(stage: TorchStage) -> None:
    """Compute the pool of teacher trajectories that all seeds of a method share (nothing, where the method has `cached: false`)."""
    p = stage.section(TrajectoryDistillation, f"trajectory_distillation.{stage.method}")
    dataset, teacher = load_dataset(layout.DATASET), stage.place(load_denoiser(layout.TEACHER))
    Pool(teacher, p, Labelled(dataset.train_images, dataset.train_labels)).save(layout.trajectories(stage.method), {"method": stage.method})
