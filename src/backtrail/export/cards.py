"""A model card for each student: what it is, how good it is and in which protocol, where it comes from, and how to use it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from backtrail.artifacts import load_json
from backtrail.data.registry import Source
from backtrail.data.sources import source_of
from backtrail.ledger.ledger import Ledger, Stage
from backtrail.parameters.base import section
from backtrail.parameters.data import Data

STUDENT = "student.safetensors"
ONE_STEP = "Sampler(sigma_init={sigma_init!r})"
FEW_STEPS = 'Sampler("euler", {num_steps}, Schedule({schedule}), afs={afs}, step_condition={told})'
SCHEDULE_IMPORT = "from backtrail.parameters.sampling import Schedule\n"
EXAMPLE = """\
from PIL import Image

from backtrail.nets.build import load_denoiser
from backtrail.parameters.sampling import Schedule
from backtrail.sampling.sample import Sampler, sample

student = load_denoiser("student.safetensors")  # a torch.nn.Module: student(x, sigma) -> x0, float32 in [-1, 1]
sampler = {sampler}
images = sample(student, sampler, range(16), student.net.image_shape, student.net.p.n_classes)
pixels = (images * 127.5 + 128).clamp(0, 255).byte()  # uint8 [16, C, H, W]; image i depends on seed i alone
Image.fromarray(pixels.permute(0, 2, 3, 1).flatten(0, 1).squeeze(-1).numpy()).save("samples.png")
"""


@dataclass(frozen=True)
class Card:
    """One student with its card."""

    name: str
    weights: str
    stage: Stage
    text: str


def data_source(ledger: Ledger) -> Source:
    """Where the suite's data come from, with their licence."""
    return source_of(section(Data, "data", ledger.folder / "params.yaml"))


def cards(ledger: Ledger) -> Iterator[Card]:
    """The card of every student whose weights lie here, in the ledger's order."""
    for weights, stage in ledger.makers.items():
        if weights.startswith("results/students/") and weights.endswith(f"/{STUDENT}") and (ledger.folder / weights).is_file():
            method, seed = weights.split("/")[2:4]
            yield Card(f"{method}-{seed}", weights, stage, card(ledger, stage, weights, method, seed))


def example(parameters: dict[str, Any]) -> str:
    """Ten lines that load the student that lies beside them and write sixteen images."""
    if "sigma_init" in parameters:
        return EXAMPLE.replace(SCHEDULE_IMPORT, "").format(sampler=ONE_STEP.format(**parameters))
    schedule = ", ".join(f"{key}={value!r}" for key, value in parameters["schedule"].items())
    told = parameters["step_condition"] != "none"
    steps = parameters["num_steps"][0]
    return EXAMPLE.format(sampler=FEW_STEPS.format(num_steps=steps, schedule=schedule, afs=parameters["afs"], told=told))


def card(ledger: Ledger, stage: Stage, weights: str, method: str, seed: str) -> str:
    """The card as Markdown with the head that model hubs read."""
    record = ledger.records[stage.name] or {}
    parameters, source = record["parameters"]["method"], data_source(ledger)
    metrics = f"results/metrics/{method}/{seed}.json"
    measured = load_json(ledger.folder / metrics) if (ledger.folder / metrics).is_file() else {"values": {}, "protocol": []}
    teacher = "results/teacher/teacher.safetensors"
    digest = ledger.records["teacher"]["outputs"].get(teacher, "unknown") if ledger.records.get("teacher") else "unknown"
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: pytorch",
        f"tags: [diffusion, distillation, {method}]",
        f"datasets: [{source.name}]",
        "---",
        f"# {method}, {seed.replace('seed', 'seed ')}: a student distilled on {source.name}",
        "",
        f"Made by stage `{stage.name}` of the suite `{ledger.params.get('suite', '')}`: `{stage.command}`.",
        "",
        "## Use",
        "",
        "The weights are safetensors; their header says how to build the net. With the package `backtrail` installed:",
        "",
        "```python",
        example(parameters).rstrip(),
        "```",
        "",
        "## Quality",
        "",
        *_quality(measured),
        "",
        "## Where it comes from",
        "",
        f"- weights: `{STUDENT}`, sha256 `{record['outputs'][weights]}`",
        f"- teacher: `{teacher}`, sha256 `{digest}`",
        f"- code: commit `{record['commit']}`{' with changes that were not committed' if record['dirty'] else ''}",
        f"- cost: {record['seconds']} s on {(record['device'] or {}).get('name') or record['host']['processor']}",
        f"- data: {source.purpose}; {source.homepage}; licence: {source.licence}",
        "",
        "## Limits",
        "",
        "Images are no better than the teacher's, and show what the data set shows. Research use; the data's licence binds you too.",
        "",
    ]
    return "\n".join(lines)


def _quality(measured: dict[str, Any]) -> Iterator[str]:
    """A table of the student's metrics and one line of protocol for each."""
    values = measured["values"].get("student", {})
    names = [entry["metric"] for entry in measured["protocol"]]
    yield f"| NFE | {' | '.join(names)} |"
    yield f"|{' --- |' * (len(names) + 1)}"
    for nfe, of in values.items():
        shown = f"{nfe.removeprefix('nfe')}{'' if int(nfe.removeprefix('nfe')) in measured['trained_nfe'] else ' (untrained)'}"
        yield f"| {shown} | {' | '.join(f'{of[name]:.4g}' for name in names)} |"
    yield ""
    for entry in measured["protocol"]:
        yield (
            f"- {entry['metric']}: features of {entry['extractor']} (sha256 `{entry['extractor_sha256'][:16]}`), resize {entry['resize']}, "
            f"{entry['n_images']} images against {entry['n_reference']}, reference sha256 `{entry['reference_sha256'][:16]}`"
        )
