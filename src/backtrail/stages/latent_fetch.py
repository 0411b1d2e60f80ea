"""`backtrail latent-fetch`: a published latent teacher, what it is told and what its images are measured with."""

from collections.abc import Iterator

from backtrail import layout
from backtrail.data.fetched_folder import fetch_outside
from backtrail.data.latent_sources import LATENT_TEACHERS, file_source, teacher_source, weight_files
from backtrail.data.registry import Source
from backtrail.data.sources import SOURCES
from backtrail.errors import UserError
from backtrail.parameters.latent import LatentEvaluation, LatentTeacher, Prompts, RealImages
from backtrail.running.stage import Stage, stage


@stage
def command(stage: Stage) -> None:
    """Bring the teacher into data/teacher, captions, real images and CLIP's weights into data/raw, Inception's into data/inception.

    Each file is verified by its digest where one is known. Nothing is downloaded before the weights' licence was accepted by its name.
    """
    p, e = stage.section(LatentTeacher, "latent"), stage.section(LatentEvaluation, "evaluation")
    prompts = None if stage.parameters["prompts"] is None else stage.section(Prompts, "prompts")
    teacher = LATENT_TEACHERS[p.source]
    if p.accept_licence != teacher.licence:
        raise UserError(
            f"the weights of {p.source} have the licence {teacher.licence!r}: read it at {teacher.homepage}, and write its name into "
            "latent.accept_licence if you accept it; nothing was downloaded"
        )
    named = [file_source(name) for name in named_files(p, stage.section(RealImages, "data"), prompts, e)]
    folders = {
        layout.FETCHED_TEACHER: [teacher_source(p.source, p.single_file)],
        layout.RAW: named,
        layout.INCEPTION: [SOURCES["inception-2015-12-05"]],
    }
    known = {file.name for sources in folders.values() for source in sources for file in source.files}
    if unknown := set(p.sha256) - known:
        raise UserError(f"latent.sha256 names {', '.join(sorted(unknown))}, which is not fetched here; files: {', '.join(sorted(known))}")
    fetched = [fetch_outside(folder, sources, p.local, _pins(sources, p)) for folder, sources in folders.items()]
    stage.record.notes["files"] = [file for of in fetched for file in of["files"]]
    if p.single_file is not None:
        from backtrail.teachers.single_file import unpack_single_file  # here: it needs torch

        stage.record.notes["files"] += unpack_single_file(f"{layout.RAW}/{p.single_file}", layout.FETCHED_TEACHER, weight_files(p.source))


def named_files(p: LatentTeacher, data: RealImages, prompts: Prompts | None, e: LatentEvaluation) -> list[str]:
    """The files that params.yaml names beside the teacher's own, each once."""
    return list(dict.fromkeys(_named(p, data, prompts, e)))


def _named(p: LatentTeacher, data: RealImages, prompts: Prompts | None, e: LatentEvaluation) -> Iterator[str]:
    if p.single_file is not None:
        yield p.single_file
    yield data.file
    if prompts is not None:
        yield prompts.evaluation.file
        if prompts.kept == "apart":
            yield prompts.training.file
        if prompts.of_images is not None:
            yield prompts.of_images
    yield from (clip.weights for clip in e.clip)


def _pins(sources: list[Source], p: LatentTeacher) -> dict[str, str]:
    own = {file.name for source in sources for file in source.files}
    return {name: digest for name, digest in p.sha256.items() if name in own}
