"""Checkpoints in the format of the diffusers library, read by the library itself."""

from pathlib import Path

from torch import nn

from backtrail.artifacts import load_json
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.nets.discrete_time import DiffusersTeacher, DiscreteTimeDenoiser, noise_levels
from backtrail.parameters.base import validate
from backtrail.teachers.described import check_levels, check_unet


def import_diffusers(folder: str | Path) -> NetDenoiser:
    """A denoiser (eval mode, no gradients, float32, on the CPU) from a pipeline's folder, read by the library.

    The U-Net and the scheduler lie in `unet/` and `scheduler/`, or both in the folder itself. Nothing is downloaded. Raises UserError
    if something is missing, is not supported, or if any weight is missing, left over or of another shape.
    """
    unet, scheduler = (root if (root := Path(folder) / part).is_dir() else Path(folder) for part in ("unet", "scheduler"))
    described, schedule = load_json(unet / "config.json"), load_json(scheduler / "scheduler_config.json")
    if not (isinstance(described, dict) and isinstance(schedule, dict) and described.get("_class_name") == "UNet2DModel"):
        raise UserError(f"{unet / 'config.json'} describes no UNet2DModel: only unconditional and class-conditional U-Nets are imported")
    if schedule.get("rescale_betas_zero_snr"):
        raise UserError(f"{scheduler / 'scheduler_config.json'} ends at infinite noise (rescale_betas_zero_snr), which no sigma expresses")
    known = {key: schedule[key] for key in DiffusersTeacher.model_fields if key in schedule}
    check_unet(unet)
    net = _load_unet(unet)
    plain = {key: value for key, value in dict(net.config).items() if not key.startswith("_")}
    configuration = validate(DiffusersTeacher, {**known, "unet": plain}, "scheduler", scheduler / "scheduler_config.json")
    levels = noise_levels(configuration)
    check_levels(levels, scheduler / "scheduler_config.json")
    denoiser = DiscreteTimeDenoiser(net.float(), levels, configuration.prediction_type)
    denoiser.configuration = configuration
    return denoiser.eval().requires_grad_(False)


def _load_unet(folder: Path) -> nn.Module:
    """The U-Net by the library's own reader, which unpickles tensors alone; what it finds wrong in names and shapes is an error here."""
    from diffusers import UNet2DModel

    try:
        net, found = UNet2DModel.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True)
    except Exception as error:  # the library raises whatever its file readers do
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} cannot be read by diffusers ({type(error).__name__}: {reason}): fetch it again") from None
    wrong = {kind: names for kind, names in found.items() if names}
    if wrong:
        kind, names = next(iter(wrong.items()))
        raise UserError(f"{folder} does not fit its config.json ({kind.replace('_', ' ')}: {str(sorted(map(str, names))[0])[:100]})")
    return net
