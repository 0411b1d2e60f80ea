"""What `check` and `plan` say of a suite's own files before anything runs: how they are read, and what would fail only hours later."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backtrail.data.images import _drawn, labels_of
from backtrail.data.layout import layout_of
from backtrail.data.sources import CLASSIFIER, OWN_TEACHERS
from backtrail.data.text_teacher import PARTS, fetched
from backtrail.data.understood import SHOWN, Understood, own_images, understood
from backtrail.errors import UserError
from backtrail.layout import PIPELINE_FILE, TEACHER
from backtrail.parameters.classifier import ClassifierParameters, ImportedClassifier
from backtrail.parameters.data import Data
from backtrail.parameters.discrete_time import TimeStep
from backtrail.parameters.students import guided
from backtrail.parameters.suite import Suite
from backtrail.parameters.teacher import DISCRETE_TIME, ImportedTeacher, Teacher
from backtrail.parameters.text_suite import PublishedTextSuite

if TYPE_CHECKING:
    from backtrail.denoiser import NetDenoiser

NO_TEST_SPLIT = ("ffhq64", "afhqv2-64", "imagenet64")  # data sets whose test images are those that are held out
WHOLE_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)
RARE = 1e-9  # chance that the draw of test images takes a whole class, below which it is not looked at


def check_own_files(suite: Suite) -> list[str]:
    """Hold the parameters against the files that are there; returns what was understood of the user's images, a line for each thing.

    Only what is the user's own is opened: the names and headers of a folder or zip, and a teacher, which takes torch and seconds.
    Raises UserError for what a stage would refuse later.
    """
    check_places(suite)
    images = understood(suite.data)
    _check_test_images(suite, images)
    if images is not None:
        check_classes(suite.data, images)
        _check_shape(suite, images)
    if isinstance(suite.teacher, ImportedTeacher):
        _check_imported(suite, suite.teacher, images)
    if any(isinstance(p.sigma_init, TimeStep) for p in suite.score_distillation.values()):
        from backtrail.cli.compute_cost import network  # here: torch takes seconds, and other suites do without

        if (known := network(suite)) is not None:
            _check_levels(suite, known)
    return [*images.lines(), *filter(None, [numbers_said(images)])] if images is not None else []


def check_classes(data: Data, images: Understood) -> None:
    """Raises UserError for a class that no training image has: samples are drawn from every class alike, and it was never seen."""
    n_trained = _training_images(data, images)
    lacking = [name for name in images.classes if not n_trained[name]]
    if lacking:
        some = [name for name in images.classes if n_trained[name]]
        raise UserError(
            f"{images.path}: there are no training images of class {_listed(lacking)}, only of {_listed(some)}, and samples are drawn from "
            "every class alike: give each class training images, one name in train/ and test/, and labels from 0 on without a gap"
        )


def _training_images(data: Data, images: Understood) -> Counter[str]:
    """Training images of each class. The draw of test images, which takes torch, is made where it may have taken a whole class."""
    n_images, has_test_split = images.n_images, "test" in images.splits
    smallest = min(images.classes.values(), default=0)
    if not images.classes or (not has_test_split and (data.held_out / n_images) ** smallest < RARE):
        return Counter(images.classes)
    members = own_images(data)
    layout = layout_of(members)
    in_test = layout.in_test if layout.in_test is not None else _drawn(n_images, data.held_out, members)
    labels, names = labels_of(members, layout)
    counts = np.bincount(labels[~in_test], minlength=len(names))
    return Counter({name: int(counts[k]) for k, name in enumerate(names)})


def numbers_said(images: Understood) -> str | None:
    """Folder -> label where folders are whole numbers and labels, which go by the text of names, another order: 10 comes before 2."""
    names = list(images.classes)
    if not all(map(WHOLE_NUMBER.fullmatch, names)) or all(int(one) <= int(other) for one, other in pairwise(names)):
        return None
    told = _listed([f"{name} -> {label}" for label, name in enumerate(names)])
    return f"labels go by the text of the folders' names, not by the numbers: {told}; zeros in front (01, 02, ... 10) make both orders one"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def check_places(suite: Suite) -> None:
    """Raises UserError where a folder or file that stages depend on is not there."""
    sections = {"data": suite.data, "teacher": suite.teacher, "metrics.inception": suite.metrics.inception}
    for key, place in ((f"{name}.local", section.local) for name, section in sections.items()):
        is_still_to_come = place == "data/local" and not Path(PIPELINE_FILE).is_file()  # it is laid down together with the pipeline
        if not Path(place).exists() and not is_still_to_come:
            raise UserError(f"{key} = {place!r}: nothing is there: make the folder (it may be empty), or name the one that has your files")


def _check_test_images(suite: Suite, images: Understood | None) -> None:
    """Raises UserError where metrics ask for more test images than there will be, as far as names and parameters tell."""
    if images is not None:
        ((split, n_test),) = [(name, n) for name, n in images.splits.items() if name != "train"]
        is_held_out = split != "test"
    elif suite.data.name in NO_TEST_SPLIT:
        n_test, is_held_out = suite.data.held_out, True
    else:
        return
    m = suite.metrics
    if n_test < (n := max(m.n_floor or m.n_samples, m.n_curve)):
        asking = "metrics.n_floor" if m.n_floor else "metrics.n_samples"
        found = f"data.held_out = {n_test} of them are put aside" if is_held_out else f"{n_test} are there"
        cure = "set data.held_out to at least that, or these to at most" if is_held_out else "set these to at most"
        raise UserError(f"{asking} and metrics.n_curve ask for {n} test images, and {found}: {cure} what there is")


def _check_shape(suite: Suite, images: Understood) -> None:
    """Raises UserError where the images do not fit data.resolution, or the networks that are to be trained on them."""
    channels, height, width = images.shape
    resolution = suite.data.resolution
    if height != width or height % resolution:
        raise UserError(f"data.resolution = {resolution}: does not divide the images' {height}x{width} pixels into equal squares")
    p, n_train = suite.classifier, images.splits["train"]
    if isinstance(p, ClassifierParameters) and p.batch_size > n_train:
        raise UserError(f"classifier.batch_size = {p.batch_size}: there are only {n_train} images to train on: write at most that")
    if isinstance(suite.teacher, Teacher):
        net = suite.teacher.net
        if net.image_channels != channels:
            raise UserError(f"teacher.net.image_channels = {net.image_channels}: the images have {channels}: write {channels}")
        if net.n_classes not in (0, len(images.classes)):
            raise UserError(f"teacher.net.n_classes = {net.n_classes}: the images have {len(images.classes)} classes: write that, or 0")


def lies_in(p: ImportedTeacher) -> bool:
    """Whether the user's own teacher lies where `local` says."""
    place = Path(p.local)
    if p.source == "own-diffusers":
        return place.is_dir()
    return p.source in OWN_TEACHERS and (place.is_file() or (place / OWN_TEACHERS[p.source][0][0]).is_file())


def _check_imported(suite: Suite, p: ImportedTeacher, images: Understood | None) -> None:
    """Raises UserError where a teacher cannot do what students and samplers ask of it, or is not for these images."""
    asked = guided(suite.teacher_samples, suite.students, suite.score_distillation)
    needs = f"guidance of {', '.join(asked)} needs a teacher that was trained on classes and on their absence"
    if asked and (p.source not in OWN_TEACHERS or p.source in DISCRETE_TIME):
        raise UserError(f"{needs}, which {p.source} is not: set it to 1")
    if isinstance(suite.classifier, ImportedClassifier):
        _check_classifier(Path(p.local), images)
    if lies_in(p) or p.source == "own-diffusers":
        can_be_guided = _check_own_teacher(suite, p, images)
        if asked and not can_be_guided:
            raise UserError(f"{needs}, which {p.local} is not: set it to 1")


def _check_classifier(place: Path, images: Understood | None) -> None:
    """Raises UserError unless a classifier lies beside the teacher, and is of the images' channels and classes as far as these are known.

    That it was trained on these very images is for its stage to say, which has their digest.
    """
    from backtrail.metrics.classifier import ROTATIONS  # here: torch takes seconds, and other suites do without
    from backtrail.teachers.imported import own_header

    def refused(why: str) -> UserError:
        return UserError(f"classifier.source = 'own-backtrail': {place} {why}: put it there, or train one here (`n_steps`)")

    if not (place / CLASSIFIER).is_file():
        raise refused(f"has no {CLASSIFIER}")
    _, header = own_header(place / CLASSIFIER)
    about = header["metadata"].get("classifier") if header else None
    if not isinstance(about, dict):
        raise refused(f"has a {CLASSIFIER} that is none of a suite's")
    if images is not None:
        n_classes = len(images.classes) if len(images.classes) > 1 else ROTATIONS
        found, expected = [
            (of.get("channels"), of.get("n_classes")) for of in (about, {"channels": images.shape[0], "n_classes": n_classes})
        ]
        if found != expected:
            is_of, has = (f"{channels} channels and {n} classes" for channels, n in (found, expected))
            raise refused(f"has a {CLASSIFIER} of images of {is_of}, one for these images has {has}")


def _check_levels(suite: Suite, teacher: "NetDenoiser") -> None:
    """Raises UserError, with the place in params.yaml, for a noise level or a time step that the teacher does not know."""
    asked = [(f"teacher_samples.samplers.{name}", teacher.check_schedule, s.schedule) for name, s in suite.teacher_samples.samplers.items()]
    asked += [(name, teacher.check_schedule, p.schedule) for name, p in suite.few_step.items()]
    for name, p in suite.score_distillation.items():
        asked += [(f"{name}.noise_{of}", teacher.check_noise, law) for of, law in (("student", p.noise_student), ("fake", p.noise_fake))]
        asked.append((f"{name}.sigma_init", teacher.level, p.sigma_init))
    for key, check, value in asked:
        try:
            check(value)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None


def _check_own_teacher(suite: Suite, p: ImportedTeacher, images: Understood | None) -> bool:
    """Read the teacher as its stage would, and hold it against the images. Returns whether it can be guided."""
    from backtrail.nets.diffusers_steps import no_place_for_steps  # here: torch takes seconds, and other suites do without
    from backtrail.nets.discrete_time import DiffusersDenoiser
    from backtrail.teachers.imported import check_teacher, read_teacher

    teacher = read_teacher(p.source, p.local, p.discrete_time)
    side = suite.data.resolution
    channels, n_classes = (images.shape[0], len(images.classes)) if images is not None else (teacher.image_shape[0], teacher.n_classes)
    check_teacher(teacher, (channels, side, side), n_classes)
    _check_levels(suite, teacher)
    told = [name for name, method in suite.few_step.items() if method.step_condition != "none"]
    if told and isinstance(teacher, DiffusersDenoiser) and (found := no_place_for_steps(teacher.net)):
        raise UserError(f"{', '.join(told)}: {p.local} has {found} and no place for a step condition: set it to none, with one num_steps")
    return teacher.conditions.null is not None


def check_text_teacher(suite: PublishedTextSuite) -> None:
    """Raises UserError where a published teacher of text to images lacks a file, or does not know what it is asked for."""
    from backtrail.tensors import load_tensors  # here: torch takes seconds, and other suites do without

    place = Path(suite.teacher.local)
    if absent := [file.name for part in PARTS if not (file := fetched(part, place)).is_file()]:
        lacking = f"teacher.local = {suite.teacher.local!r} has no {', '.join(absent)}"
        raise UserError(f"{lacking}: name the folder that `backtrail export --teacher` wrote")
    if suite.guided and not load_tensors(fetched(TEACHER, place))[1].get("text_dropout"):
        asked = f"guidance of {', '.join(suite.guided)} needs a teacher that knows images without a text"
        raise UserError(f"{asked}, which {place} does not: set it to 1")
