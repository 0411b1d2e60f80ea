"""Which files of a folder are a network and its scheduler, as `save_pretrained` of the diffusers library lays them down."""

import re
from dataclasses import dataclass
from pathlib import Path

from backtrail.artifacts import load_json
from backtrail.errors import UserError

CONFIG, SCHEDULE = "config.json", "scheduler_config.json"
PARTS = {"unet", "scheduler"}  # of a pipeline of pixels
# Of one of latents, with or without a text; what judges or prepares images beside it is left alone.
LATENT_PARTS = PARTS | {"vae", "vqvae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}
LATENT_PARTS |= {"safety_checker", "feature_extractor", "image_encoder"}
DIFFUSION, TRANSFORMER = "diffusion_pytorch_model", "model"  # what the two libraries call their weights
WEIGHTS = r"{stem}(?:\.(?P<variant>\w+))?\.(?P<kind>safetensors|bin)"
INDEX = r"{stem}\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>\w+))?\.json"
KINDS = ("safetensors", "bin")  # in the order in which they are preferred; the second are pickles


@dataclass(frozen=True)
class Weights:
    """The files of a network's weights in `folder`; files are several where they are sharded.

    variant  what stands in their names, such as fp16, or None
    index    the list of the shards, or None
    """

    folder: Path
    variant: str | None
    index: str | None
    files: tuple[str, ...]

    @property
    def is_safe(self) -> bool:
        """Whether they are safetensors, and no pickles."""
        return all(name.endswith(".safetensors") for name in self.files)


@dataclass(frozen=True)
class DiffusersFolder:
    """The files of one U-Net and its scheduler, as paths relative to `root`.

    unet, scheduler  their folders below `root`, "" for `root` itself
    """

    root: Path
    unet: str
    scheduler: str
    found: Weights

    @property
    def config(self) -> Path:
        """The U-Net's configuration."""
        return self.root / self.unet / CONFIG

    @property
    def schedule(self) -> Path:
        """The scheduler's configuration."""
        return self.root / self.scheduler / SCHEDULE

    @property
    def weights(self) -> tuple[str, ...]:
        """The files of the U-Net's weights."""
        return tuple(self.unet + name for name in self.found.files)

    @property
    def files(self) -> tuple[str, ...]:
        """All that has to be kept of the folder."""
        described = (f"{self.unet}{CONFIG}", f"{self.scheduler}{SCHEDULE}")
        return (*described, *((self.unet + self.found.index,) if self.found.index else ()), *self.weights)


def find_diffusers(folder: str | Path, latent: bool = False) -> DiffusersFolder:
    """The U-Net and the scheduler in `folder`: in `unet/` and `scheduler/`, or both in the folder itself.

    Raises UserError if one of them is missing, if the pipeline has other parts (a latent space, text) and is not said to be `latent`, or
    if it is not clear which of several weight files are meant.
    """
    root = Path(folder)
    if strange := _other_parts(root, LATENT_PARTS if latent else PARTS):
        expected = "of latents, with " + _words(LATENT_PARTS) if latent else f"of pixels, with {_words(PARTS)} alone"
        raise UserError(f"{root / 'model_index.json'} names {', '.join(strange)}: expected a pipeline {expected}")
    unet, scheduler = (f"{part}/" if (root / part).is_dir() else "" for part in ("unet", "scheduler"))
    for name in (unet + CONFIG, scheduler + SCHEDULE):
        if not (root / name).is_file():
            raise UserError(
                f"{root / name} is missing: expected a folder that `save_pretrained` of a diffusers pipeline wrote (unet/, scheduler/), "
                f"or {CONFIG}, {SCHEDULE} and the weights in one folder"
            )
    return DiffusersFolder(root, unet, scheduler, find_weights(root / unet))


def _other_parts(root: Path, known: set[str]) -> list[str]:
    """The parts of a pipeline beside those that are known, by its index."""
    parts = load_json(root / "model_index.json") if (root / "model_index.json").is_file() else {}
    if not isinstance(parts, dict):
        raise UserError(f"{root / 'model_index.json'} should be an object that names a pipeline's parts: fetch it again")
    return sorted(name for name, part in parts.items() if isinstance(part, list) and any(part) and name not in known)


def find_weights(folder: Path, stem: str = DIFFUSION) -> Weights:
    """The weights called `stem` in a folder: plain names before variants, safetensors before pickles, one file before shards.

    Raises UserError if there are none, if the variants leave a choice, or if a shard is missing.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    patterns = [(re.compile(pattern.format(stem=stem)), pattern is INDEX) for pattern in (WEIGHTS, INDEX)]
    found = [(match, is_index) for name in names for pattern, is_index in patterns if (match := pattern.fullmatch(name))]
    if not found:
        raise UserError(
            f"{folder} holds no weights: expected {stem}.safetensors, or .bin, in one file or with the index of its shards, as "
            "`save_pretrained` writes them"
        )
    variants = {match["variant"] for match, _ in found}
    if None not in variants and len(variants) > 1:
        raise UserError(f"{folder} holds weights of the variants {_words(variants)} and no plain ones: leave one of them there")
    variant = None if None in variants else variants.pop()
    chosen = [(KINDS.index(match["kind"]), is_index, match.string) for match, is_index in found if match["variant"] == variant]
    _, is_index, name = min(chosen)
    return Weights(folder, variant, name, _shards(folder / name)) if is_index else Weights(folder, variant, None, (name,))


def _shards(index: Path) -> tuple[str, ...]:
    """The files that an index of shards names."""
    content = load_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    if not names or any(not re.fullmatch(r"[\w-][\w.-]*", name) for name in names):
        raise UserError(f"{index} should name the weights' files, which lie beside it: fetch it again")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise UserError(f"{index.parent} lacks {', '.join(missing[:3])}, which {index.name} names: fetch it again")
    return tuple(names)


def _words(names: set[str]) -> str:
    return " and ".join(sorted(names))
