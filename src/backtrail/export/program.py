"""A student for whoever has torch and not this package: a program of torch.export, what is known of it, and a file that draws images."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backtrail.artifacts import save_json
from backtrail.denoiser import Condition, NetDenoiser
from backtrail.export import standalone
from backtrail.nets.build import at_step_condition, load_denoiser
from backtrail.nets.discrete_time import DiffusersDenoiser, DiffusersTeacher
from backtrail.parameters.discrete_time import Asked
from backtrail.sampling.sample import Sampler
from backtrail.sampling.student import student_sampling

FILES = ("student.pt2", "student.json", "sample.py")


class Estimate(nn.Module):
    """D(x, sigma, labels, steps) -> x0, with plain tensors in place of a `Condition`."""

    def __init__(self, denoiser: NetDenoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
        return self.denoiser(x, sigma, Condition(labels=labels, steps=steps))


class Programs:
    """Writes students as programs; students of one architecture share its tracing, which takes seconds."""

    def __init__(self) -> None:
        self.traced: dict[str, torch.export.ExportedProgram] = {}

    def write(self, weights: Path, folder: Path, of_latents: bool = False) -> None:
        """`FILES` of the student in the file `weights`, and a pipeline of diffusers where it has a U-Net of that library.

        The library's U-Nets are told no steps: a student that is has one of them for each number of evaluations, in folders of their own.
        A student of latents, which is told captions and needs a first stage, leaves as what is known of it and as its U-Net alone.
        """
        student, sampling = load_denoiser(weights), student_sampling(weights)
        ways = sampling.samplers(None, [1.0])
        plans = {str(way.nfe): sampling_plan(student, way) for way in ways}
        folder.mkdir(parents=True, exist_ok=True)
        told = any(plan["steps"] for plan in plans.values())
        if of_latents:
            save_json(folder / FILES[1], {"shape": list(student.image_shape), "plans": plans})
            for way in (ways if told else ways[:1]) if isinstance(student, DiffusersDenoiser) else ():
                place = folder / f"nfe{way.nfe}" if told else folder
                at_step_condition(student, way.num_steps).net.save_pretrained(place / "unet")
            return
        torch.export.save(self.program(student, told), folder / FILES[0])
        save_json(folder / FILES[1], {"shape": list(student.image_shape), "n_classes": student.n_classes, "plans": plans})
        (folder / FILES[2]).write_text(Path(standalone.__file__).read_text(encoding="utf-8"), encoding="utf-8")
        if isinstance(student, DiffusersDenoiser):
            for way in ways if told else ways[:1]:
                write_diffusers(at_step_condition(student, way.num_steps), way, folder / f"nfe{way.nfe}" if told else folder)

    def program(self, student: NetDenoiser, told: bool) -> torch.export.ExportedProgram:
        """The student's program, with its weights in it; `told`: it takes its number of time stamps."""
        described = student.configuration.model_dump(mode="json") if student.configuration else {}
        key = json.dumps([described, told], sort_keys=True)
        if key not in self.traced:
            self.traced[key] = trace(student, told)
        traced = self.traced[key]
        with torch.no_grad():
            for name, value in student.state_dict().items():
                traced.state_dict[f"denoiser.{name}"].copy_(value)
        return traced


def sampling_plan(student: NetDenoiser, way: Sampler) -> dict[str, Any]:
    """What `sample.py` has to know of a way to sample the student; start: what unit noise is scaled by."""
    levels = way.levels()
    told = way.num_steps if way.step_condition else None
    return {"sigmas": levels, "start": student.start_scale(levels[0]), "afs": way.afs, "steps": told}


def trace(student: NetDenoiser, told: bool) -> torch.export.ExportedProgram:
    """The student's computation, for any number of images where its layers leave that open and for a chunk of them otherwise."""
    n = standalone.CHUNK
    known: dict[str, Tensor] = {}
    if student.n_classes:
        known["labels"] = torch.zeros(n, dtype=torch.int64)
    if told:
        known["steps"] = torch.full((n,), 4.0)
    shapes: dict[str, Any] = {"x": {0: torch.export.Dim.AUTO}, "sigma": {}, **{name: {0: torch.export.Dim.AUTO} for name in known}}
    with torch.no_grad():
        example = torch.zeros(n, *student.image_shape), torch.tensor(1.0)
        return torch.export.export(Estimate(student).eval(), example, known, dynamic_shapes=shapes)


def write_diffusers(student: NetDenoiser, way: Sampler, folder: Path) -> None:
    """A pipeline's folder: `unet/`, `scheduler/`, `model_index.json`, and `pipeline.py`, which holds the plan and walks it.

    The scheduler alone asks at times that are linear in ln sigma between the steps, whatever the student was trained with.
    """
    from diffusers import EulerDiscreteScheduler

    from backtrail.export import pipeline  # here: with it comes diffusers

    configuration = student.configuration
    if not isinstance(student, DiffusersDenoiser) or not isinstance(configuration, DiffusersTeacher):
        raise TypeError(f"a U-Net of diffusers is described by DiffusersTeacher; found {type(configuration).__name__}")
    schedule = configuration.model_dump(exclude={"format", "kind", "unet", "step_condition", *Asked.model_fields})
    plan = sampling_plan(student, way)
    plan["asked"] = torch.stack(student.time_and_level(torch.tensor(plan["sigmas"][:-1], dtype=torch.float64)), dim=1).tolist()
    pipeline.StudentPipeline(student.net, EulerDiscreteScheduler.from_config(schedule)).save_pretrained(folder)
    text = Path(pipeline.__file__).read_text(encoding="utf-8").replace("PLAN: dict[str, Any] = {}", f"PLAN: dict[str, Any] = {plan}")
    (folder / "pipeline.py").write_text(text, encoding="utf-8")
