"""`backtrail images`: images of a teacher or a student to look at, image i from seed i as everywhere."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor
from torchvision.utils import make_grid

from backtrail import layout
from backtrail.artifacts import atomic_write
from backtrail.audit.evidence import brings
from backtrail.data.dataset import to_uint8
from backtrail.denoiser import NetDenoiser
from backtrail.errors import UserError
from backtrail.layout import PARAMS_FILE, STUDENTS, TEACHER, TEACHER_NAME
from backtrail.ledger.ledger import BY_HAND, at_key
from backtrail.nets.build import load_denoiser
from backtrail.parameters.base import read, section
from backtrail.parameters.latent import LatentTeacher
from backtrail.parameters.latent_suite import is_latent
from backtrail.parameters.quantities import Guidance
from backtrail.parameters.reader import shortened
from backtrail.parameters.runtime import Runtime
from backtrail.parameters.sampling import TeacherSamples
from backtrail.parameters.text import TextEvaluation, TextWorld
from backtrail.parameters.text_suite import is_text
from backtrail.pipeline import Declared
from backtrail.running.torch_stage import TorchStage, choose_device, configure
from backtrail.sampling.sample import Sampler, sample
from backtrail.sampling.solvers import EVALUATIONS_PER_STEP
from backtrail.sampling.student import OneStep, student_sampling
from backtrail.tensors import load_tensors

GUIDANCE = TypeAdapter(Guidance).json_schema()  # with its bounds in params.yaml
OTHER_PICTURES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def _weight(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A weight that params.yaml would take; click's own range lets NaN pass, which is neither below nor above anything."""
    least, most = GUIDANCE["minimum"], GUIDANCE["maximum"]
    if value is not None and not least <= value <= most:
        raise UserError(f"--guidance is a weight from {least:g} to {most:g}; found {value:g}")
    return value


@click.command()
@click.argument("model")
@click.option("--nfe", type=click.IntRange(1), help="Network evaluations per image, both branches of guidance counted.")
@click.option("--seeds", default="0-63", metavar="FIRST-LAST", help="The images' seeds.")
@click.option("--guidance", type=float, callback=_weight, help="Weight of classifier-free guidance.  [default: 1, or the sampler's]")
@click.option("--sampler", "name", help="For a teacher: a sampler of params.yaml.  [default: teacher_samples.reference]")
@click.option("--out", default="images.png", metavar="FILE.png|FOLDER", help="One grid, row by row, or a PNG file for each seed.")
def command(model: str, nfe: int | None, seeds: str, guidance: float | None, name: str | None, out: str) -> None:
    """Images of MODEL: `teacher`, a method (its first seed), METHOD/seedN, or a file of weights. Run it in the suite's folder.

    Image i is the one of seed i that the suite's own samples hold, to the bit on the same kind of machine. Without --nfe a student makes
    the fewest evaluations that it was trained for, the teacher those of its sampler. Of a model of texts it also says each seed's caption.
    """
    file, indices = weights_file(model), seed_range(seeds)
    is_other_file = Path(out).is_file() and Path(out).suffix.lower() != ".png"
    if is_other_file or Path(out).suffix.lower() in OTHER_PICTURES:  # said before hours of sampling
        raise UserError(f"--out {out}: expected a .png file, or a folder that is to hold one for each seed")
    suite = read(PARAMS_FILE) if Path(PARAMS_FILE).is_file() else {}
    if any(isinstance(own := at_key(suite, key), str) and Path(out).resolve().is_relative_to(Path(own).resolve()) for key in BY_HAND):
        raise UserError(f"--out {out} is among the files that {PARAMS_FILE} names as yours: name another place")
    runtime = section(Runtime, "runtime") if "runtime" in suite else Runtime()
    device = choose_device(runtime)
    configure(runtime, device)
    denoiser = TorchStage(Declared("images", "images", {}, (), (), ()), device=device, runtime=runtime).place(load_denoiser(file))
    picture, captions = pictures(denoiser, suite, file)
    if "sampling" in load_tensors(file)[1]:
        if name is not None:
            raise UserError(f"--sampler is for a teacher; {file} is a student, whose way of sampling is its own")
        sampler = student_sampler(file, nfe, 1.0 if guidance is None else guidance)
    else:
        sampler = replace(teacher_sampler(name, nfe, guidance), within=denoiser.noise_range)
    made = sample(denoiser, sampler, indices, denoiser.image_shape, denoiser.conditions, device=device)
    check_finite(made, indices, file)
    save(picture(made), indices, Path(out))
    click.echo(f"{out}: seeds {indices.start} to {indices.stop - 1} of {file}, NFE {sampler.nfe}, guidance {sampler.guidance:g}")
    for seed in indices if captions else ():
        click.echo(f"{seed}: {captions(seed)}")


def check_finite(made: Tensor, indices: range, file: Path) -> None:
    """Raises UserError where a model made no numbers: as a picture, NaN would be black."""
    finite = made.flatten(1).isfinite().all(1)
    if not finite.all():
        first, n = indices[int(finite.int().argmin())], int((~finite).sum())
        raise UserError(
            f"{file} makes values that are not finite in {n} of {len(indices)} images, the first of seed {first}: "
            "lower --guidance, or get the weights again"
        )


def pictures(denoiser: NetDenoiser, suite: dict[str, Any], file: Path) -> tuple[Callable[[Tensor], Tensor], Callable[[int], str] | None]:
    """What makes uint8 pictures [n, 1 or 3, H, W] of what a model makes, and the caption of each seed where it is told one.

    A latent model is told the captions of its suite's evaluation from here on, and its latents are decoded by the suite's first stage.
    Raises UserError if a picture cannot be made of them.
    """
    if is_text(suite):
        from backtrail.data.caption_archive import load_captions  # here and below: what other suites have no need of
        from backtrail.data.captions import CAPTIONS
        from backtrail.metrics.decoded import load_decoder
        from backtrail.teachers.autoencoder import decode
        from backtrail.teachers.prompts import evaluation_numbers, prompts

        kind = section(TextEvaluation, "evaluation").prompts
        denoiser.told = prompts(load_captions(layout.CAPTIONS), section(TextWorld, "text").null_text, kind)
        numbers, net = evaluation_numbers(kind), load_decoder(denoiser.device).net
        return partial(decode, net), lambda seed: CAPTIONS[int(numbers[seed % len(numbers)])]
    if is_latent(suite):
        from backtrail.teachers.latent_images import load_first_stage
        from backtrail.teachers.latent_texts import load_texts

        denoiser.told = told = load_texts(layout.CAPTIONS)
        return load_first_stage(layout.FETCHED_TEACHER, section(LatentTeacher, "latent"), denoiser.device).decode, told and told.caption
    if len(denoiser.image_shape) != 3 or denoiser.image_shape[0] not in (1, 3):
        raise UserError(f"{file} makes {list(denoiser.image_shape)}, and a picture has 1 or 3 channels, height and width")
    return to_uint8, None


def weights_file(model: str) -> Path:
    """The weights that a name means. Raises UserError, naming what there is, if nothing fits."""
    if Path(model).is_file():
        return Path(model)
    folders = [path.parent for path in Path(STUDENTS).glob("*/seed*/student.safetensors")]
    known = sorted(of.relative_to(STUDENTS).as_posix() for of in folders if of.name.removeprefix("seed").isdecimal())  # no seed0-old
    places = [place for place in known if place == model or place.startswith(f"{model}/seed")]
    found = Path(TEACHER) if model == TEACHER_NAME else Path(STUDENTS) / min(places, default="", key=_number) / "student.safetensors"
    if not found.is_file():
        raise UserError(
            f"there is no {model} here: name {', '.join([TEACHER_NAME, *known])}, or a file of weights; `{brings(Path())}` brings them"
        )
    return found


def _number(place: str) -> int:
    return int(place.rpartition("seed")[2])


def seed_range(text: str) -> range:
    """`0-63` or `7` as a range, of numbers that `int` takes. Raises UserError for anything else."""
    found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", text)
    seeds = range(int(found[1]), int(found[2] or found[1]) + 1) if found else range(0)
    if not seeds:
        raise UserError(f"--seeds is one seed or FIRST-LAST, of at most 18 digits each, for example 0-63; found {shortened(text)}")
    return seeds


def student_sampler(file: Path, nfe: int | None, guidance: float) -> Sampler:
    """A student's own way at `nfe` evaluations. Raises UserError if it cannot make so many."""
    facts, branches = student_sampling(file), 1 if guidance == 1 else 2
    wanted = nfe or min(facts.trained_nfe) * branches
    steps, rest = divmod(wanted, branches)
    if rest or (isinstance(facts, OneStep) and steps != 1):
        possible = f"{branches} alone" if isinstance(facts, OneStep) else f"a multiple of {branches}"
        raise UserError(f"{file}: NFE {wanted} at guidance {guidance:g} cannot be; it makes {possible}")
    time_stamps = None if isinstance(facts, OneStep) else [steps + 1 + facts.afs]
    return facts.samplers(time_stamps, [guidance])[0]


def teacher_sampler(name: str | None, nfe: int | None, guidance: float | None) -> Sampler:
    """A sampler of params.yaml, the reference where none is named, at `nfe` evaluations. Raises UserError if it cannot make so many."""
    known = section(TeacherSamples, "teacher_samples")
    if (s := known.samplers.get(name or known.reference)) is None:
        raise UserError(f"teacher_samples has no sampler {name}; it has {', '.join(known.samplers)}")
    weight = s.guidance if guidance is None else guidance
    made = Sampler(s.solver, s.num_steps[0], s.schedule, s.afs, guidance=weight, threshold=s.threshold)
    if nfe is None:
        return made
    branches, per_step = 1 if weight == 1 else 2, EVALUATIONS_PER_STEP[s.solver]
    made = replace(made, num_steps=max(2, math.ceil((nfe / branches + s.afs) / per_step) + 1))
    if made.nfe != nfe:
        each = per_step * branches
        raise UserError(f"{s.solver} makes {each} evaluations a step at guidance {weight:g}: NFE {made.nfe} is near, {nfe} cannot be")
    return made


def save(images: Tensor, indices: range, out: Path) -> None:
    """uint8 [N, C, H, W] as one grid in a PNG file, or as a PNG file for each seed in a folder."""
    if out.suffix.lower() == ".png":
        _save_png(make_grid(images, nrow=math.ceil(math.sqrt(len(images))), pad_value=255), out)
        return
    for seed, image in zip(indices, images, strict=True):
        _save_png(image, out / f"{seed:06d}.png")


def _save_png(image: Tensor, path: Path) -> None:
    """uint8 [C, H, W] with 1 or 3 channels."""
    shown = Image.fromarray(image.squeeze(0).numpy() if len(image) == 1 else torch.movedim(image, 0, -1).numpy())
    atomic_write(path, lambda file: shown.save(file, format="PNG"))
