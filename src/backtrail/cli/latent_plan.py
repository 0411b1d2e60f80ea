"""What `backtrail plan` says of a suite of a published latent teacher: bytes, GPU memory, GPU-hours, and what that assumes.

Operations are counted layer by layer, a multiplication and an addition as two, attention's products with them; activations are estimates of
others for bfloat16, to be measured before they are relied on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import click
import pandas as pd

from backtrail import layout
from backtrail.cli.compute_cost import Work, inception_gflop, job_names
from backtrail.cli.plan import as_text, file_rows, operations, rate_of, summary
from backtrail.data.latent_sources import LATENT_TEACHERS, file_source, teacher_source
from backtrail.data.sources import SOURCES
from backtrail.methods.disback import family as disback
from backtrail.methods.sfd import family as sfd
from backtrail.parameters.latent import LatentSource
from backtrail.parameters.latent_suite import LatentSuite
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.sampling.sample import Sampler
from backtrail.sampling.student import OneStep, StudentSampling
from backtrail.stages.latent_fetch import named_files

GIB = 2**30
TRAINED, FROZEN = 16, 4  # bytes a weight: float32 with its gradient and Adam's two averages; float32 alone
CAPTIONS_UNKNOWN = 30_000  # where a list is not here and its length is not in the parameters


@dataclass(frozen=True)
class Published:
    """What is known of a published latent teacher before its files are here.

    weights, step_weights, lora_weights: millions, of the U-Net, of SFD-v's new layers, of adapters per rank on attention, feed-forward, and
    convolutions. gflop: of a forward on one image. decode, encode: GFLOP of the first stage on one image. text, text_kib: GFLOP and cached
    size of a caption. activations: GiB a sample with only the blocks' inputs kept, and with all kept; None is unknown.
    """

    weights: float
    step_weights: float
    lora_weights: float
    gflop: float
    decode: float
    encode: float
    text: float
    text_kib: float
    activations: tuple[float, float] | None


PUBLISHED: dict[LatentSource, Published] = {
    "teacher-sd15": Published(859.521, 27.876, 67.25 / 64, 803.3, 2515, 1117, 13.3, 115.5, (0.06, 0.8)),
    "teacher-sdxl": Published(2567.464, 0.0, 196.75 / 64, 6761, 10470, 4879, 111.2, 310.5, (0.34, 5.8)),
    "teacher-ldm-lsun-bedroom": Published(274.056, 12.659, 0.0, 202.4, 671, 345, 0.0, 0.0, None),
}


def plan_latent(suite: LatentSuite, tflops: float | None) -> None:
    """Print it. Nothing is fetched or computed."""
    about, source = PUBLISHED[suite.latent.source], LATENT_TEACHERS[suite.latent.source]
    table = files(suite)
    click.echo(f"Suite {suite.suite}\n\nTo fetch:\n{as_text(table)}\n{summary(table)}")
    accepted = "accepted" if suite.latent.accept_licence == source.licence else "to be accepted in latent.accept_licence before a download"
    click.echo(f"Licence of the weights: {source.licence} ({source.homepage}), {accepted}\n")
    counted = operations(list(count(suite)), 1.0, inception_gflop())
    rate, origin = rate_of(counted, tflops)
    counted["GPU hours"] = counted["tflop"] / rate / 3600
    shown = counted.assign(
        **{"PFLOP": (counted["tflop"] / 1000).map("{:,.1f}".format), "GPU hours": counted["GPU hours"].map("{:.2f}".format)}
    )
    click.echo(f"Work: the U-Net has {about.weights:,.1f} M weights and {about.gflop:,.1f} GFLOP per forward; {rate:.3g} TFLOP/s {origin}")
    click.echo(as_text(shown[["stage", "jobs", "done", "PFLOP", "GPU hours"]]))
    click.echo(f"About {counted['GPU hours'].sum():.1f} GPU-hours in all (an estimate)\n\nGPU memory, and what lies on the disk:")
    click.echo(as_text(pd.DataFrame(memory(suite))))
    click.echo("\nThis assumes:\n" + "\n".join(f"- {line}" for line in assumptions(suite)))


def files(suite: LatentSuite) -> pd.DataFrame:
    """A row per outside file: stage, file, bytes (None: unknown) and state."""
    local = suite.latent.local
    rows = file_rows("latent-fetch", teacher_source(suite.latent.source, suite.latent.single_file), layout.FETCHED_TEACHER, local)
    for name in named_files(suite.latent, suite.data, suite.prompts, suite.evaluation):
        rows += file_rows("latent-fetch", file_source(name), layout.RAW, local)
    return pd.DataFrame(rows + file_rows("latent-fetch", SOURCES["inception-2015-12-05"], layout.INCEPTION, local))


def count(suite: LatentSuite) -> Iterator[Work]:
    """The work of every stage, in the pipeline's order; `forwards` are GFLOP here, since four networks have a part in it."""
    about, e, data = PUBLISHED[suite.latent.source], suite.evaluation, suite.data
    ways: dict[tuple[str, str], int] = {}
    for p in e.frechet:
        ways[p.images, p.extractor] = max(p.n_images, ways.get((p.images, p.extractor), 0))
    if suite.prompts is not None:
        told = [of.count or CAPTIONS_UNKNOWN for of in (suite.prompts.training, suite.prompts.evaluation)]
        yield Work(["latent-captions"], about.text * sum(told))
    of_floor = data.n_floor * (about.encode + about.decode)
    yield Work(["latent-reference"], of_floor, len(ways) * ((data.n_reference or CAPTIONS_UNKNOWN) + data.n_floor))
    if data.n_latents:
        yield Work(["latent-latents"], data.n_latents * about.encode)
    samplers = suite.teacher_samples.samplers.values()
    yield _sampled(suite, ["latent-teacher-samples"], [s.nfe(n) for s in samplers for n in s.num_steps], sum(ways.values()))
    for method, score in suite.score_distillation.items():
        path = disback.path_forwards(score) + _recomputed(suite, score.recording.steps * score.batch if score.recording else 0)
        yield Work(job_names(suite, "latent-path", method), about.gflop * path)
        trained = disback.training_forwards(score, e.n_curve) + _recomputed(
            suite, score.updates * score.batch * (1 + score.fake_per_student)
        )
        points = len({*range(0, score.updates + 1, score.evaluate_every), *score.snapshots, score.updates}) * e.n_curve
        yield Work(job_names(suite, "latent-one-step", method), about.gflop * trained + about.decode * points, points)
        yield _student(suite, method, OneStep(sigma_init=1.0), sum(ways.values()))
    for method, few in suite.trajectory_distillation.items():
        steps = sum(n - 1 - few.afs for n in few.num_steps) / len(few.num_steps)
        trained = sfd.training_forwards(few, e.n_curve) + _recomputed(suite, few.rounds * few.batch * steps)
        points = len({*range(0, few.rounds + 1, few.evaluate_every), few.rounds}) * e.n_curve
        yield Work(job_names(suite, "latent-few-step", method), about.gflop * trained + about.decode * points, points)
        yield _student(suite, method, sfd.sampling(few), sum(ways.values()))


def _recomputed(suite: LatentSuite, passes: float) -> float:
    """The forwards that blocks which are computed again add to so many backward passes."""
    return passes if suite.runtime.checkpointing else 0


def _student(suite: LatentSuite, method: str, sampling: StudentSampling, features: int) -> Work:
    asked = suite.students[method]
    made: list[Sampler] = sampling.samplers(asked.num_steps, asked.guidance)
    return _sampled(suite, job_names(suite, "latent-samples", method), [way.nfe for way in made], features)


def _sampled(suite: LatentSuite, names: list[str], evaluations: list[int], features: int) -> Work:
    about, n = PUBLISHED[suite.latent.source], suite.evaluation.n_images
    return Work(names, n * (about.gflop * sum(evaluations) + about.decode * len(evaluations)), features * len(evaluations))


def memory(suite: LatentSuite) -> list[dict[str, object]]:
    """A row per method: GiB of weights on the GPU, of activations (None: unknown), and of files on the disk for each seed."""
    about = PUBLISHED[suite.latent.source]
    rows = []
    for name, p in (*suite.score_distillation.items(), *suite.trajectory_distillation.items()):
        weights, disk = (_one_step if isinstance(p, ScoreDistillation) else _few_step)(about, p)  # type: ignore[operator]
        kept = about.activations and about.activations[0 if suite.runtime.checkpointing else 1]
        pass_ = min(suite.runtime.micro_batch or p.batch, p.batch)
        # Of one pass for the whole batch the student's graph waits while the fake score is trained.
        graphs = 2 if isinstance(p, ScoreDistillation) and pass_ == p.batch else 1
        of_pass = "unknown" if kept is None else f"{graphs * pass_ * kept:.1f}"
        rows.append({"method": name, "weights, GiB": f"{weights / GIB:.1f}", "activations, GiB": of_pass, "disk, GiB": f"{disk / GIB:.1f}"})
    return rows


def _one_step(about: Published, p: ScoreDistillation) -> tuple[float, float]:
    """Bytes on the GPU: student, fake score, the teacher and the node that is the target; and on the disk: path and student."""
    whole, nodes = about.weights * 1e6, p.recording.nodes if p.recording else 0
    average = FROZEN if p.average is not None else 0
    if (lora := p.adapters) is not None:
        small = about.lora_weights * lora.rank * 1e6
        return FROZEN * whole + (2 * TRAINED + FROZEN * nodes + average) * small, FROZEN * (2 * whole + nodes * small)
    return (2 * TRAINED + average + FROZEN * (1 + bool(nodes))) * whole, FROZEN * whole * (nodes + 2)


def _few_step(about: Published, p: TrajectoryDistillation) -> tuple[float, float]:
    """Bytes on the GPU: student and teacher; and on the disk: the student."""
    whole = about.weights * 1e6
    own = whole + (about.step_weights * 1e6 if p.step_condition != "none" else 0)
    trained = about.lora_weights * p.lora.rank * 1e6 if p.lora else own
    return FROZEN * whole + TRAINED * trained, FROZEN * own


def assumptions(suite: LatentSuite) -> list[str]:
    """What the numbers rest on."""
    lines = [
        "weights in float32 whatever they are multiplied in: 16 bytes each where they are trained (gradient, Adam), 4 where frozen; "
        "text encoders and first stage are not counted, nor what the library keeps for itself",
        "GFLOP per image: U-Net, first stage and text encoders counted layer by layer, attention's products with them",
        "a backward pass costs two forwards" + (", and one more since blocks are computed again" if suite.runtime.checkpointing else ""),
        "activations in bfloat16 by others' estimates: measure before relying on them",
    ]
    if suite.score_distillation:
        lines.append("of a path of whole networks the teacher and one node are on the GPU at a time; adapters share one frozen teacher")
    if suite.processes.sharded:
        lines.append(
            "GPU memory is that of one process: of several each has its share of the weights of networks that are trained whole; in the "
            "host's memory the first has a run's whole state while it is saved, and all nodes of a path at its end"
        )
    unknown = [of.file for of in ((suite.prompts.training, suite.prompts.evaluation) if suite.prompts else ()) if of.count is None]
    if unknown or suite.data.n_reference is None:
        named = ", ".join([*dict.fromkeys(unknown), *([suite.data.file] if suite.data.n_reference is None else [])])
        lines.append(f"{CAPTIONS_UNKNOWN:,} each of {named}, whose number the parameters do not say")
    if suite.prompts is not None:
        lines.append(f"a caption's encoding takes {PUBLISHED[suite.latent.source].text_kib} KiB in results/captions")
    return lines
