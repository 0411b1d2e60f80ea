"""`backtrail latent-path`: degradation recording (DisBack, Algorithm 1) on a published latent teacher."""

from functools import partial

from backtrail import layout
from backtrail.methods.disback.path import Origin, save_path
from backtrail.methods.disback.recording import record
from backtrail.nets.build import load_denoiser
from backtrail.parameters.latent import Processes
from backtrail.parameters.score_distillation import PathParameters, ScoreDistillation
from backtrail.running.sharded import check_agreement, execution, undivided
from backtrail.running.torch_stage import TorchStage, distributed_stage
from backtrail.teachers.latent_images import load_latents
from backtrail.teachers.latent_texts import load_texts, telling


@distributed_stage
def command(stage: TorchStage) -> None:
    """Record the degradation path of a student: the teacher is fitted to the initial student's samples, nodes are kept on the way."""
    p = stage.part(PathParameters, ScoreDistillation, f"score_distillation.{stage.method}")
    prompts = load_texts(layout.CAPTIONS)
    lora = p.recording.lora if p.recording else None
    place, executed = execution(stage, p.batch, stage.section(Processes, "processes").sharded and lora is None)
    origin = Origin(load_denoiser(layout.TEACHER)).placed(telling(place, prompts))
    data = load_latents(layout.LATENTS, told=prompts is not None)
    path, recording = record(origin, p, data, stage.seed, executed)
    check_agreement(executed.group, path.table.to_dict("list"))
    path = path.placed(partial(undivided, stage))
    if stage.writes:
        save_path(layout.path(*stage.of_method), path, recording)
        stage.record.notes |= recording
