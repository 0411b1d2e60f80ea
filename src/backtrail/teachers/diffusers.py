"""Checkpoints in the format of the diffusers library, read by the library itself."""

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from backtrail.artifacts import load_json
from backtrail.data.diffusers_folder import DiffusersFolder, find_diffusers
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.levels import noise_levels
from backtrail.nets.discrete_time import DiffusersDenoiser, DiffusersTeacher
from backtrail.parameters.base import validate
from backtrail.parameters.discrete_time import Asked
from backtrail.teachers.described import check_levels, check_unet

# Schedulers whose betas say how the network was trained, x_t = sqrt(a_t) x + sqrt(1 - a_t) noise. How each of them samples does not matter
# here. Those of consistency models (LCM, TCD) have betas too, and are left out: their networks are no denoisers.
DDPM_FAMILY = (
    "DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler", "LMSDiscreteScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler",
    "UniPCMultistepScheduler", "SASolverScheduler",
)  # fmt: skip
# What the library's average of weights (EMAModel) adds to the configuration of the U-Net that it saves.
AVERAGE = {"decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"}


def import_diffusers(folder: str | Path, asked: Asked | None = None) -> NetDenoiser:
    """A denoiser (eval mode, no gradients, float32, on the CPU) from a pipeline's folder, read by the library.

    asked: how it is asked, which its files do not say. The U-Net and the scheduler lie in `unet/` and `scheduler/`, or both in the folder
    itself. Nothing is downloaded. Raises UserError if something is missing, is not supported, or if any weight is missing, left over or of
    another shape.
    """
    found = find_diffusers(folder)
    schedule = _schedule(found.schedule)
    _check_kind(found.config)
    check_unet(found.config.parent)
    net = _load_unet(found)
    plain = {key: value for key, value in dict(net.config).items() if not key.startswith("_") and key not in AVERAGE}
    own = {**schedule, **(asked or Asked()).model_dump(), "unet": plain}
    configuration = validate(DiffusersTeacher, own, "scheduler", found.schedule)
    _check_terminal(configuration, found.schedule)
    check_levels(noise_levels(configuration), found.schedule)
    denoiser = DiffusersDenoiser(net.float(), configuration)
    denoiser.configuration = configuration
    return denoiser.eval().requires_grad_(False)


def _schedule(path: Path) -> dict[str, Any]:
    """What the scheduler's file says of the betas and of what the network estimates, with its own class's defaults."""
    import diffusers

    values = load_json(path)
    kind = values.get("_class_name") if isinstance(values, dict) else None
    if kind not in DDPM_FAMILY:
        known = ", ".join(name.removesuffix("Scheduler") for name in DDPM_FAMILY)
        raise UserError(f"{path} is of {str(kind)[:60]}: expected a scheduler whose betas say how the network was trained ({known})")
    for key, allowed in (("use_flow_sigmas", False), ("timestep_type", "discrete")):
        if (found := values.get(key, allowed)) not in (allowed, None):
            raise UserError(
                f"{path} has {key} = {found!r}, which betas do not express: expected a network trained with {key} = {allowed!r}"
            )
    if not values.keys() & {"beta_schedule", "beta_start", "beta_end", "trained_betas"}:
        raise UserError(f"{path} says nothing of its betas: expected beta_schedule, beta_start and beta_end, or trained_betas")
    defaults = inspect.signature(getattr(diffusers, kind).__init__).parameters
    wanted = [key for key in DiffusersTeacher.model_fields if key in defaults]
    return {key: values.get(key, defaults[key].default) for key in wanted}


def _check_terminal(p: DiffusersTeacher, path: Path) -> None:
    """Raises UserError for noise estimated where there is nothing else: x0 = x - sigma F says nothing at infinite sigma."""
    if p.rescale_betas_zero_snr and p.prediction_type == "epsilon":
        raise UserError(
            f"{path} has prediction_type = epsilon and rescale_betas_zero_snr = true: a network that estimates noise says nothing of a "
            "step of pure noise; expected v_prediction or sample"
        )


def _check_kind(path: Path) -> None:
    """Raises UserError unless this is the library's U-Net of pixels, of (x, t) or of (x, t, one label)."""
    from diffusers import UNet2DModel

    values = load_json(path)
    if not (isinstance(values, dict) and values.get("_class_name") == "UNet2DModel"):
        raise UserError(f"{path} describes no UNet2DModel: only unconditional and class-conditional U-Nets are imported")
    defaults = inspect.signature(UNet2DModel.__init__).parameters
    unknown = [key for key, value in values.items() if not (key.startswith("_") or key in AVERAGE or key in defaults or value is None)]
    if unknown:
        raise UserError(f"{path} has {', '.join(unknown)[:100]}, which a UNet2DModel does not have: expected what `save_pretrained` writes")
    for key, allowed, why in (
        ("class_embed_type", None, "labels are embedded by number alone"),
        ("time_embedding_type", "positional", "only this embedding takes a time between two steps"),
    ):
        if (found := values.get(key, allowed)) != allowed:
            raise UserError(f"{path} has {key} = {found!r}: expected {allowed or 'null'}, since {why}")
    channels, out = (values.get(key, defaults[key].default) for key in ("in_channels", "out_channels"))
    if out not in (channels, 2 * channels):
        raise UserError(f"{path} makes {out} channels of {channels}: expected as many, or twice as many where the variance is learned")
    if values.get("sample_size") is None:
        raise UserError(f"{path} names no sample_size: write the height and width, in pixels, of the images that it was trained on")


def _load_unet(found: DiffusersFolder) -> nn.Module:
    """The U-Net by the library's own reader, which unpickles tensors alone; what it finds wrong in names and shapes is an error here."""
    from diffusers import UNet2DModel

    folder, is_safe = found.config.parent, found.weights[0].endswith(".safetensors")
    options = {"local_files_only": True, "low_cpu_mem_usage": False, "variant": found.variant, "use_safetensors": is_safe}
    try:
        net, loaded = UNet2DModel.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # the library raises whatever its file readers do
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} cannot be read by diffusers ({type(error).__name__}: {reason}): fetch it again") from None
    wrong = {kind: names for kind, names in loaded.items() if names}
    if wrong:
        kind, names = next(iter(wrong.items()))
        raise UserError(f"{folder} does not fit its config.json ({kind.replace('_', ' ')}: {str(sorted(map(str, names))[0])[:100]})")
    return net
