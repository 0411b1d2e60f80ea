"""Which files of a folder are a U-Net and its scheduler, as `save_pretrained` of the diffusers library lays them down."""

import re
from dataclasses import dataclass
from pathlib import Path

from backtrail.artifacts import load_json
from backtrail.errors import UserError

CONFIG, SCHEDULE = "config.json", "scheduler_config.json"
PARTS = {"unet", "scheduler"}  # of a pipeline of pixels
WEIGHTS = re.compile(r"diffusion_pytorch_model(?:\.(?P<variant>\w+))?\.(?P<kind>safetensors|bin)")
INDEX = re.compile(r"diffusion_pytorch_model\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>\w+))?\.json")
KINDS = ("safetensors", "bin")  # in the order in which they are preferred; the second are pickles


@dataclass(frozen=True)
class DiffusersFolder:
    """The files of one U-Net and its scheduler, as paths relative to `root`; `weights` are several where they are sharded.

    unet, scheduler  their folders below `root`, "" for `root` itself
    variant          what stands in the weights' names, such as fp16, or None
    index            the list of the shards, or None
    """

    root: Path
    unet: str
    scheduler: str
    variant: str | None
    index: str | None
    weights: tuple[str, ...]

    @property
    def config(self) -> Path:
        """The U-Net's configuration."""
        return self.root / self.unet / CONFIG

    @property
    def schedule(self) -> Path:
        """The scheduler's configuration."""
        return self.root / self.scheduler / SCHEDULE

    @property
    def files(self) -> tuple[str, ...]:
        """All that has to be kept of the folder."""
        described = (f"{self.unet}{CONFIG}", f"{self.scheduler}{SCHEDULE}")
        return (*described, *((self.index,) if self.index else ()), *self.weights)


def find_diffusers(folder: str | Path) -> DiffusersFolder:
    """The U-Net and the scheduler in `folder`: in `unet/` and `scheduler/`, or both in the folder itself.

    Raises UserError if one of them is missing, if the pipeline has other parts (a latent space, text), or if it is not clear which of
    several weight files are meant.
    """
    root = Path(folder)
    if strange := _other_parts(root):
        raise UserError(
            f"{root / 'model_index.json'} names {', '.join(strange)}: expected a pipeline of pixels, with {_words(PARTS)} alone"
        )
    unet, scheduler = (f"{part}/" if (root / part).is_dir() else "" for part in ("unet", "scheduler"))
    for name in (unet + CONFIG, scheduler + SCHEDULE):
        if not (root / name).is_file():
            raise UserError(
                f"{root / name} is missing: expected a folder that `save_pretrained` of a diffusers pipeline wrote (unet/, scheduler/), "
                f"or {CONFIG}, {SCHEDULE} and the weights in one folder"
            )
    variant, index, weights = _weights(root, unet)
    return DiffusersFolder(root, unet, scheduler, variant, index, weights)


def _other_parts(root: Path) -> list[str]:
    """The parts of a pipeline beside those that are read, by its index."""
    parts = load_json(root / "model_index.json") if (root / "model_index.json").is_file() else {}
    if not isinstance(parts, dict):
        raise UserError(f"{root / 'model_index.json'} should be an object that names a pipeline's parts: fetch it again")
    return sorted(name for name, part in parts.items() if isinstance(part, list) and any(part) and name not in PARTS)


def _weights(root: Path, unet: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Variant, index and files of the weights: plain names before variants, safetensors before pickles, one file before shards."""
    names = sorted(path.name for path in (root / unet).iterdir() if path.is_file())
    found = [(match, pattern is INDEX) for name in names for pattern in (WEIGHTS, INDEX) if (match := pattern.fullmatch(name))]
    if not found:
        raise UserError(
            f"{root / unet} holds no weights: expected diffusion_pytorch_model.safetensors, or .bin, in one file or with the index of its "
            "shards, as `save_pretrained` writes them"
        )
    variants = {match["variant"] for match, _ in found}
    if None not in variants and len(variants) > 1:
        raise UserError(f"{root / unet} holds weights of the variants {_words(variants)} and no plain ones: leave one of them there")
    variant = None if None in variants else variants.pop()
    chosen = [(KINDS.index(match["kind"]), is_index, match.string) for match, is_index in found if match["variant"] == variant]
    _, is_index, name = min(chosen)
    return (variant, unet + name, _shards(root / unet / name, unet)) if is_index else (variant, None, (unet + name,))


def _shards(index: Path, unet: str) -> tuple[str, ...]:
    """The files that an index of shards names."""
    content = load_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    if not names or any(not re.fullmatch(r"[\w-][\w.-]*", name) for name in names):
        raise UserError(f"{index} should name the weights' files, which lie beside it: fetch it again")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise UserError(f"{index.parent} lacks {', '.join(missing[:3])}, which {index.name} names: fetch it again")
    return tuple(unet + name for name in names)


def _words(names: set[str]) -> str:
    return " and ".join(sorted(names))
