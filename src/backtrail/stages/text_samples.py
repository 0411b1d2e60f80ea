"""`backtrail text-samples`: images of the latent teacher or of a student of it, decoded and measured."""

import torch

from backtrail import layout
from backtrail.artifacts import save_json
from backtrail.data.caption_archive import load_captions
from backtrail.denoiser import NetDenoiser
from backtrail.metrics.alignment import load_judges
from backtrail.metrics.decoded import load_decoder
from backtrail.nets.build import load_denoiser
from backtrail.parameters.sampling import TeacherSamples
from backtrail.parameters.students import Sampling
from backtrail.parameters.text import TextEvaluation, TextWorld
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.sampling.sample import Sampler
from backtrail.sampling.student import student_sampling
from backtrail.stages.teacher_samples import teacher_samplers
from backtrail.teachers.prompts import evaluation_numbers, prompts
from backtrail.tensors import save_tensors
from backtrail.training.progress import progress

SHOWN = 64  # images that are kept of each set; the measured ones are made again by their seeds


@torch_stage
def command(stage: TorchStage) -> None:
    """Sample a model by each of its samplers under the captions of evaluation, decode and measure; keeps the first images of each."""
    e, of = stage.section(TextEvaluation, "evaluation"), stage.of_method if stage.declared.item else (layout.TEACHER_NAME, None)
    texts = load_captions(layout.CAPTIONS)
    model = load_denoiser(layout.student(*of) if of[1] is not None else layout.TEACHER)
    model.told = prompts(texts, stage.value(TextWorld, "text.null_text"), e.prompts)
    ways, trained = ways_of(stage, stage.place(model), of)
    decoder, judges = load_decoder(stage.device), load_judges(texts)
    numbers = evaluation_numbers(e.prompts)
    captions = numbers[torch.arange(e.n_samples) % len(numbers)]
    images, values = {}, {}
    with progress(len(ways), unit="sampler") as tick:
        for done, (name, way) in enumerate(ways, start=1):
            drawn = decoder.images(model, way, e.n_samples)
            images[f"{name}/nfe{way.nfe}"] = drawn[:SHOWN].clone()
            values.setdefault(name, {})[f"nfe{way.nfe}"] = judges(drawn, captions, e.batch_size)
            tick(done)
    about = {"method": of[0], "trained_nfe": trained} | ({} if of[1] is None else {"seed": of[1]})
    kept = {"first_seed": 0, "n_images": len(captions[:SHOWN]), "captions": captions[:SHOWN].tolist()}
    save_tensors(layout.samples(*of), images, about | kept)
    save_json(layout.metrics(*of), about | {"values": values, "protocol": judges.protocol(e.n_samples, e.batch_size)})


def ways_of(stage: TorchStage, model: NetDenoiser, of: tuple[str, int | None]) -> tuple[list[tuple[str, Sampler]], list[int]]:
    """Samplers by the name under which their images stand, and the numbers of evaluations that the model was trained for."""
    if of[1] is None:
        return teacher_samplers(stage.section(TeacherSamples, "teacher_samples"), model), []
    asked, facts = stage.section(Sampling, f"students.{of[0]}"), student_sampling(layout.student(*of))
    return [(way.name_of_student, way) for way in facts.samplers(asked.num_steps, asked.guidance)], sorted(facts.trained_nfe)
