"""`backtrail latent-teacher`: the published U-Net as the denoiser that is distilled."""

from backtrail import layout
from backtrail.artifacts import load_json
from backtrail.data.fetched_folder import MANIFEST
from backtrail.nets.build import save_denoiser
from backtrail.parameters.latent import LatentTeacher, RealImages
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.teachers.diffusers import import_diffusers
from backtrail.teachers.latent_images import check_fits, load_first_stage


@torch_stage
def command(stage: TorchStage) -> None:
    """Read the teacher's U-Net and scheduler, and hold its latents against the first stage's."""
    p = stage.section(LatentTeacher, "latent")
    teacher = import_diffusers(layout.FETCHED_TEACHER, p.asked, latent=True)
    check_fits(teacher, load_first_stage(layout.FETCHED_TEACHER, p), stage.value(RealImages, "data.resolution"))
    files = {entry["name"]: entry["sha256"] for entry in load_json(f"{layout.FETCHED_TEACHER}/{MANIFEST}")["files"]}
    save_denoiser(layout.TEACHER, teacher, files=files, source=p.source)
