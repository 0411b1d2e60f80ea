"""Captions out of files: a text with one a line, or COCO's own annotations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backtrail.artifacts import load_json
from backtrail.errors import UserError
from backtrail.parameters.latent import Captions, Prompts

LONGEST = 2000  # characters of a caption; CLIP reads 77 tokens


def read_captions(path: Path, p: Captions) -> list[str]:
    """The captions of a file in their order, the first `count` of them. Raises UserError for another format."""
    if path.suffix == ".json":
        captions = [caption for of in coco_captions(path).values() for caption in of]
    else:
        try:
            captions = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
        except (OSError, UnicodeDecodeError):
            raise UserError(f"{path} is no text of captions, one a line: fetch it again") from None
    captions = [caption for caption in captions if caption]
    if not captions or max(map(len, captions)) > LONGEST:
        raise UserError(f"{path} should hold captions of up to {LONGEST} characters, one a line, or be COCO's annotations")
    return captions if p.count is None else captions[: p.count]


def coco_captions(path: Path) -> dict[str, list[str]]:
    """Captions by the file name of their image, in the order of COCO's annotations. Raises UserError if they are none."""
    content: Any = load_json(path)
    try:
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        found: dict[str, list[str]] = {}
        for annotation in content["annotations"]:
            found.setdefault(names[annotation["image_id"]], []).append(str(annotation["caption"]).strip())
    except (KeyError, TypeError):
        raise UserError(f"{path} is none of COCO's annotations of captions: expected images and annotations with captions") from None
    return found


def training_and_evaluation(folder: Path, p: Prompts) -> tuple[list[str], list[str]]:
    """Distinct captions of training and the captions of evaluation, in their order.

    apart: captions of evaluation are taken out of those of training, before the first `count` are. same: both are evaluation's.
    Raises UserError if nothing is left to train under.
    """
    evaluation = read_captions(folder / p.evaluation.file, p.evaluation)
    if p.kept == "same":
        return list(dict.fromkeys(evaluation)), evaluation
    told = {*evaluation}
    every = dict.fromkeys(read_captions(folder / p.training.file, Captions(file=p.training.file)))
    training = [caption for caption in every if caption not in told][: p.training.count]
    if not training:
        raise UserError(f"{p.training.file} has no caption that {p.evaluation.file} does not have: nothing is left to train under")
    return training, evaluation


def captions_of_images(path: Path, names: Sequence[str]) -> list[str]:
    """The first caption of each image. Raises UserError if COCO's annotations do not know one of them."""
    known = coco_captions(path)
    if missing := [name for name in names if name not in known]:
        raise UserError(f"{path} has no caption of {missing[0]}: name the annotations of the images in data.file")
    return [known[name][0] for name in names]
