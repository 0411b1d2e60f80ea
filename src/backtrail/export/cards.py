"""A model card for each student: what it is, how good it is and in which protocol, where it comes from, and how to use it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backtrail import layout
from backtrail.artifacts import load_json
from backtrail.data.latent_sources import LATENT_TEACHERS, file_source
from backtrail.data.registry import Source
from backtrail.data.sources import OWN_TEACHERS, SOURCES, source_of, source_of_teacher
from backtrail.errors import UserError
from backtrail.layout import PARAMS_FILE
from backtrail.ledger.ledger import Ledger, Stage
from backtrail.parameters.base import section
from backtrail.parameters.data import Data
from backtrail.parameters.latent import RealImages
from backtrail.parameters.latent_suite import is_latent
from backtrail.parameters.ring import is_ring
from backtrail.parameters.text_suite import is_text
from backtrail.sampling.student import student_sampling
from backtrail.tensors import load_tensors

STUDENT = "student.safetensors"
EXAMPLE = """\
from sample import draw, load{imports}  # the file beside this card: it needs torch and nothing else

student, about = load()  # student(x, sigma) -> x0; about["plans"]: the numbers of network evaluations
x = draw(student, about, range(16), nfe={nfe})  # image i depends on seed i alone
{write}
"""
IMAGES = {"imports": ", save", "write": 'save(x, "samples.png")'}
POINTS = {
    "imports": "",
    "write": """\
with open("samples.csv", "w") as file:
    file.writelines(",".join(map(str, point)) + "\\n" for point in x.flatten(1).tolist())""",
}
OF_DIFFUSERS = """\
With diffusers alone, which runs `pipeline.py` (a student that is told its steps has a folder `nfeN` for each number of evaluations):

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{folder}", custom_pipeline="{folder}", trust_remote_code=True)
for i, image in enumerate(pipe(batch_size=16).images):
    image.save(f"{{i}}.png")
```
"""
RING = "a ring of Gaussians"


@dataclass(frozen=True)
class Card:
    """One student with its card."""

    name: str
    weights: str
    stage: Stage
    text: str


def data_source(ledger: Ledger) -> Source:
    """Where the suite's data come from, with their licence; a ring's are drawn by the suite itself."""
    file = ledger.folder / PARAMS_FILE
    if is_ring(ledger.params):
        return Source(
            name=RING, purpose="points drawn from a known density", files=(), licence="none needed: drawn by this suite", date="2024-08",
            homepage="https://arxiv.org/abs/2408.15991",
        )  # fmt: skip
    if is_text(ledger.params):
        return SOURCES["fashion-mnist"]
    return file_source(section(RealImages, "data", file).file) if is_latent(ledger.params) else source_of(section(Data, "data", file))


def teacher_licence(ledger: Ledger) -> str | None:
    """What binds a user of the teacher's weights, and so of students that start from them; None for a teacher that this package trained.

    The `teacher.safetensors` of another suite says in its header what that suite imported. Raises UserError if it is not here.
    """
    if is_latent(ledger.params):
        return LATENT_TEACHERS[ledger.params["latent"]["source"]].licence
    name = (ledger.params.get("teacher") or {}).get("source")
    if name == "own-backtrail":
        path = f"{layout.FETCHED_TEACHER}/{OWN_TEACHERS[name][0][0]}"
        if not (ledger.folder / path).is_file():
            raise UserError(f"{path} is not here, whose header says what binds its students: `dvc repro fetch-teacher`")
        name = load_tensors(ledger.folder / path)[1].get("source")
    if name is None:
        return None
    return source_of_teacher(name).licence if name in {*SOURCES, *OWN_TEACHERS} else f"that of {name}, yours to know"


def makes_latents(params: dict[str, Any]) -> bool:
    """Whether the models of a suite with these parameters make latents, which its first stage decodes."""
    return is_text(params) or is_latent(params)


def cards(ledger: Ledger) -> Iterator[Card]:
    """The card of every student whose weights lie here, in the ledger's order."""
    for weights, stage in ledger.makers.items():
        if weights.startswith(f"{layout.STUDENTS}/") and weights.endswith(f"/{STUDENT}") and (ledger.folder / weights).is_file():
            method, seed = weights.split("/")[2:4]
            yield Card(f"{method}-{seed}", weights, stage, card(ledger, stage, weights, method, seed))


def example(nfe: int, of_points: bool = False) -> str:
    """Lines that load the student that lies beside them and write sixteen images, or points, whatever the kind of its net."""
    return EXAMPLE.format(nfe=nfe, **(POINTS if of_points else IMAGES))


def pipeline_example(weights: Path) -> list[str]:
    """Lines that load a student of a diffusers teacher by that library, and write sixteen images; none for another."""
    if load_tensors(weights)[1]["denoiser"].get("format") != "diffusers":
        return []
    sampling = student_sampling(weights)
    told = sampling.samplers(None, [1.0])[0].step_condition
    return ["", *OF_DIFFUSERS.format(folder=f"./nfe{sampling.trained_nfe[0]}" if told else ".").splitlines()]


def use(ledger: Ledger, weights: str, method: str, seed: str) -> list[str]:
    """How the student is loaded: by torch alone, and by diffusers; of latents by the suite, which decodes them."""
    file = ledger.folder / weights
    nfe = student_sampling(file).trained_nfe[0]
    if makes_latents(ledger.params):
        lines = [
            "It makes latents, which the suite's first stage decodes. In the suite's folder:",
            "",
            "```sh",
            f"backtrail images {method}/{seed} --nfe {nfe} --seeds 0-15 --out samples.png",
            "```",
            "",
            "`student.json` says how it is sampled, `student.safetensors` holds the weights for the package `backtrail`.",
        ]
        if is_latent(ledger.params):
            lines.append("`unet/` (`nfeN/unet/` of one that is told its steps) is the student as a U-Net of diffusers.")
        return lines
    return [
        "```python",
        example(nfe, is_ring(ledger.params)).rstrip(),
        "```",
        "",
        "`student.pt2` is the student as a program of torch.export, `student.json` says how it is sampled. `student.safetensors` holds the",
        "same weights for the package `backtrail`.",
        *pipeline_example(file),
    ]


def card(ledger: Ledger, stage: Stage, weights: str, method: str, seed: str) -> str:
    """The card as Markdown with the head that model hubs read."""
    record = ledger.records[stage.name] or {}
    source, metrics = data_source(ledger), f"{layout.METRICS}/{method}/{seed}.json"
    measured = load_json(ledger.folder / metrics) if (ledger.folder / metrics).is_file() else {"values": {}, "protocol": []}
    maker = ledger.maker(layout.TEACHER)
    teacher = ((ledger.records[maker.name] if maker else None) or {}).get("outputs", {}).get(layout.TEACHER, "unknown")
    bound = teacher_licence(ledger)
    lines = [
        "---",
        *(["license: apache-2.0"] if bound is None else ["license: other", f"license_name: {json.dumps(bound)}"]),
        "library_name: pytorch",
        f"tags: [diffusion, distillation, {method}]",
        f"datasets: [{json.dumps(source.name)}]",
        "---",
        f"# {method}, {seed.replace('seed', 'seed ')}: a student distilled on {source.name}",
        "",
        f"Made by stage `{stage.name}` of the suite `{ledger.params.get('suite', '')}`: `{stage.cmd}`.",
        "",
        "## Use",
        "",
        *use(ledger, weights, method, seed),
        "",
        "## Quality",
        "",
        *_quality(measured),
        "",
        "## Where it comes from",
        "",
        f"- weights: `{STUDENT}`, sha256 `{record['outputs'][weights]}`",
        f"- teacher: `{layout.TEACHER}`, sha256 `{teacher}`",
        f"- code: commit `{record['commit']}`{' with changes that were not committed' if record['dirty'] else ''}",
        f"- cost: {record['seconds']} s on {(record['device'] or {}).get('name') or record['host']['processor']}",
        f"- data: {source.purpose}; {source.homepage}; licence: {source.licence}",
        "",
        "## Limits",
        "",
        "Images are no better than the teacher's, and show what the data set shows. Research use; the data's licence binds you too.",
        *([] if bound is None else [f"So does that of the teacher's weights, which the student started from: {bound}."]),
        "",
    ]
    return "\n".join(lines)


def _quality(measured: dict[str, Any]) -> Iterator[str]:
    """A table of the student's metrics, a row for each measured set, and one line of protocol for each metric."""
    sets = [
        (source.partition("-w")[2], int(nfe.removeprefix("nfe")), of)
        for source, by_nfe in measured["values"].items()
        if source.partition("-w")[0] == "student"
        for nfe, of in by_nfe.items()
    ]
    if not sets:
        yield "Not measured by itself; the suite's figure and its data say how near its samples come to the data."
        return
    names = list(dict.fromkeys(name for *_, of in sets for name in of))
    is_guided = any(weight for weight, *_ in sets)
    head = ["NFE", *(["guidance"] if is_guided else []), *names]
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for weight, nfe, of in sets:
        # Guidance evaluates two branches a step, and nobody is trained for that: it is the steps that were trained.
        trained = (nfe / 2 if weight else nfe) in measured["trained_nfe"]
        cells = [f"{nfe}{'' if trained else ' (untrained)'}", *([weight or "none"] if is_guided else [])]
        yield f"| {' | '.join([*cells, *(f'{of[name]:.4g}' if name in of else '' for name in names)])} |"
    yield ""
    for entry in measured["protocol"]:
        said = (f"{key.removesuffix('_sha256')} {_short(key, value)}" for key, value in entry.items() if key != "metric")
        yield f"- {entry['metric']}: {', '.join(said)}"


def _short(key: str, value: Any) -> str:
    """A value of a protocol, of a digest its head."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {of_it}" for name, of_it in value.items())
    return f"sha256 `{value[:16]}`" if key.endswith("sha256") and value else str(value)
