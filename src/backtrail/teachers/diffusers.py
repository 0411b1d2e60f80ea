"""Checkpoints in the format of the diffusers library, read by the library itself."""

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from backtrail.artifacts import load_json
from backtrail.data.diffusers_folder import CONFIG, Weights, find_diffusers, find_weights
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.levels import noise_levels
from backtrail.nets.diffusers_autoencoder import DiffusersAutoencoder
from backtrail.nets.discrete_time import DiffusersDenoiser, DiffusersTeacher
from backtrail.parameters.base import validate
from backtrail.parameters.discrete_time import Asked
from backtrail.teachers.described import check_levels, check_weights

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
# What a U-Net may say of itself beside its widths: the value of each key that is read, and why no other.
UNETS: dict[str, tuple[tuple[str, tuple[Any, ...], str], ...]] = {
    "UNet2DModel": (
        ("class_embed_type", (None,), "labels are embedded by number alone"),
        ("time_embedding_type", ("positional",), "only this embedding takes a time between two steps"),
    ),
    "UNet2DConditionModel": (
        ("class_embed_type", (None,), "labels are embedded by number alone"),
        ("time_embedding_type", ("positional",), "only this embedding takes a time between two steps"),
        ("addition_embed_type", (None, "text_time"), "beside tokens it is told a pooled vector and time ids, or nothing"),
        ("encoder_hid_dim_type", (None,), "tokens go into its attention as they are"),
        ("time_cond_proj_dim", (None,), "a network that is told the weight of guidance is no denoiser"),
        ("attention_type", ("default",), "its blocks are told tokens alone"),
        ("dual_cross_attention", (False,), "the library has no such blocks"),
    ),
}
PIXELS = ("UNet2DModel",)  # what a pipeline of pixels may have: a text is told where its encoders lie beside the network


def import_diffusers(folder: str | Path, asked: Asked | None = None, latent: bool = False) -> NetDenoiser:
    """A denoiser (eval mode, no gradients, float32, on the CPU) from a pipeline's folder, read by the library.

    asked: how it is asked, which its files do not say; latent: the pipeline may have an autoencoder and text encoders beside it. The U-Net
    and the scheduler lie in `unet/` and `scheduler/`, or both in the folder itself. Nothing is downloaded. Raises UserError if something is
    missing, is not supported, or if any weight is missing, left over or of another shape.
    """
    found = find_diffusers(folder, latent)
    schedule = _schedule(found.schedule)
    kind = _unet_kind(found.config, latent)
    net = _load(found.found, kind)
    plain = {key: value for key, value in dict(net.config).items() if not key.startswith("_") and key not in AVERAGE}
    own = {**schedule, **(asked or Asked()).model_dump(), "kind": kind, "unet": plain}
    configuration = validate(DiffusersTeacher, own, "scheduler", found.schedule)
    _check_terminal(configuration, found.schedule)
    check_levels(noise_levels(configuration), found.schedule)
    denoiser = DiffusersDenoiser(net.float(), configuration)
    denoiser.configuration = configuration
    return denoiser.eval().requires_grad_(False)


def import_autoencoder(folder: str | Path, scale: float | None = None) -> DiffusersAutoencoder:
    """The autoencoder in a folder (`vae/` or `vqvae/` of a pipeline), as `import_diffusers` reads a U-Net.

    scale: what latents are multiplied by; None is what its file says. A VQModel's says nothing: it has the default of Stable Diffusion's
    autoencoder whatever it was trained with, which is 1 for those of latent diffusion. Raises UserError as there, and for a VQModel
    without a scale.
    """
    folder = Path(folder)
    config = folder / CONFIG
    kind = _kind(config, ("AutoencoderKL", "VQModel"), "an autoencoder")
    if kind == "VQModel" and scale is None:
        raise UserError(
            f"{config} is of a VQModel, whose scaling_factor is a default that says nothing: name the scale (1 for latent diffusion)"
        )
    net = _load(find_weights(folder), kind)
    if unknown := [key for key in ("latents_mean", "latents_std") if net.config.get(key) is not None]:
        raise UserError(f"{config} has {unknown[0]}: latents that are shifted and scaled channel by channel are not read here")
    shift = net.config.get("shift_factor") or 0.0
    return DiffusersAutoencoder(net.float(), net.config.scaling_factor if scale is None else scale, shift).eval().requires_grad_(False)


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


def _unet_kind(path: Path, latent: bool) -> str:
    """The library's class of the U-Net: of (x, t), of (x, t, one label), or of latents and a text. Raises UserError if it is another."""
    kind = _kind(path, tuple(UNETS) if latent else PIXELS, "a U-Net, unconditional or of classes" + (", or of a text" if latent else ""))
    values, defaults = load_json(path), _defaults(kind)
    for key, allowed, why in UNETS[kind]:
        if (found := values.get(key, allowed[0])) not in allowed:
            raise UserError(f"{path} has {key} = {found!r}: expected {' or '.join(str(a or 'null') for a in allowed)}, since {why}")
    channels, out = (values.get(key, defaults[key].default) for key in ("in_channels", "out_channels"))
    if out not in (channels, 2 * channels):
        raise UserError(f"{path} makes {out} channels of {channels}: expected as many, or twice as many where the variance is learned")
    if values.get("sample_size") is None:
        raise UserError(f"{path} names no sample_size: write the height and width, in pixels, of the images that it was trained on")
    return kind


def _kind(path: Path, known: tuple[str, ...], what: str) -> str:
    """The library's class that a configuration names. Raises UserError if it is none of the known ones, or has keys that they have not."""
    values = load_json(path)
    kind = values.get("_class_name") if isinstance(values, dict) else None
    if kind not in known:
        raise UserError(f"{path} describes no {' or '.join(known)}: expected {what}")
    defaults = _defaults(kind)
    unknown = [key for key, value in values.items() if not (key.startswith("_") or key in AVERAGE or key in defaults or value is None)]
    if unknown:
        raise UserError(f"{path} has {', '.join(unknown)[:100]}, which a {kind} does not have: expected what `save_pretrained` writes")
    return kind


def _defaults(kind: str) -> Any:
    import diffusers

    return inspect.signature(getattr(diffusers, kind).__init__).parameters


def _load(found: Weights, kind: str) -> nn.Module:
    """The network by the library's own reader, which unpickles tensors alone, after its description was held against its files.

    What the library finds wrong in names and shapes is an error here.
    """
    import diffusers

    folder, library = found.folder, getattr(diffusers, kind)
    check_weights(found, library.from_config)
    options = {"local_files_only": True, "low_cpu_mem_usage": False, "variant": found.variant, "use_safetensors": found.is_safe}
    try:
        net, loaded = library.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # the library raises whatever its file readers do
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} cannot be read by diffusers ({type(error).__name__}: {reason}): fetch it again") from None
    wrong = {kind: names for kind, names in loaded.items() if names}
    if wrong:
        kind, names = next(iter(wrong.items()))
        raise UserError(f"{folder} does not fit its config.json ({kind.replace('_', ' ')}: {str(sorted(map(str, names))[0])[:100]})")
    return net
