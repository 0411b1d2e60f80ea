"""Checkpoints of one file in the layout of the original codes (Stable Diffusion, SDXL), taken apart by diffusers' own converters.

Names are theirs, the weights are those of the file: nothing is computed but the few that the original keeps joined or transposed. Of a file
that holds raw weights and their average, the average is the teacher, as it is in the published pipelines.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from backtrail.artifacts import atomic_write, file_digest, load_json, save_json
from backtrail.data.diffusers_folder import CONFIG
from backtrail.data.fetched_folder import MANIFEST
from backtrail.errors import UserError
from backtrail.teachers.reader import Refused
from backtrail.teachers.zipped_tensors import check_work

Weights = dict[str, Tensor]
SECOND_ENCODER = "conditioner.embedders.1.model."  # of SDXL, by open_clip's names


def unpack_single_file(file: str | Path, folder: str | Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Write the weights `names` of a pipeline (`unet/diffusion_pytorch_model.safetensors`, ...) beside what describes them in `folder`, and
    list them in its manifest; returns what it says of them.

    Raises UserError if the file is absent, would have to be executed, or holds none of a part's weights. Whether they are all of the part's
    is seen when it is imported.
    """
    file, folder = Path(file), Path(folder)
    tensors, converters, made = read_single_file(file), _converters(), []
    for name in names:
        part = Path(name).parent.name
        config = load_json(folder / part / CONFIG)
        try:
            found = {key: value for key, value in converters[part](tensors, config).items() if isinstance(value, Tensor)}
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:  # the converters take what they expect for granted
            reason = f"{type(error).__name__}: {str(error)[:100]}"
            raise UserError(f"{file} is not what {folder / part / CONFIG} describes ({reason}): name the teacher's own file") from None
        if not found:
            raise UserError(f"{file} holds nothing of {part}/: expected a whole checkpoint of the original code, with its text encoders")
        weights = {key: value.contiguous() for key, value in found.items()}
        try:
            atomic_write(folder / name, lambda path, weights=weights: save_file(weights, path, metadata={"format": "pt"}))
        except SafetensorError as error:  # the file system's errors, in the library's own words
            raise UserError(f"{folder / name} could not be written ({error}): free some space there") from None
        about = {"name": name, "sha256": file_digest(folder / name), "size_bytes": (folder / name).stat().st_size, "verified": "converted"}
        made.append({"source": file.name, **about})
    save_json(folder / MANIFEST, {"files": load_json(folder / MANIFEST)["files"] + made})
    return made


def read_single_file(file: Path) -> Weights:
    """The tensors of a file by name, mapped; of a pickle only if it names tensors and nothing else, since nothing is executed.

    Raises UserError otherwise.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        check_work(file)
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"{file} is missing: fetch it, or put it there by hand") from None
    except Refused as refusal:
        raise UserError(
            f"{file} cannot be read, and nothing in it was executed ({refusal}): take the one that ends in .safetensors"
        ) from None
    except Exception as error:  # whatever torch and safetensors raise for a file that is cut, or is another
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{file} cannot be read ({type(error).__name__}: {reason}): fetch it again") from None
    named = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {str(name): value for name, value in named.items() if isinstance(value, Tensor)} if isinstance(named, dict) else {}


def _converters() -> dict[str, Callable[[Weights, dict[str, Any]], dict[str, Any]]]:
    from diffusers.loaders import single_file_utils as library  # here: it takes seconds

    def second_encoder(tensors: Weights, config: dict[str, Any]) -> dict[str, Any]:
        width = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
        return library.convert_open_clip_checkpoint(width, tensors, prefix=SECOND_ENCODER)

    return {
        "unet": lambda tensors, config: library.convert_ldm_unet_checkpoint(
            tensors, config=config, extract_ema=any(name.startswith("model_ema.") for name in tensors)
        ),
        "vae": lambda tensors, config: library.convert_ldm_vae_checkpoint(tensors, config),
        "text_encoder": lambda tensors, config: library.convert_ldm_clip_checkpoint(tensors),
        "text_encoder_2": second_encoder,
    }
