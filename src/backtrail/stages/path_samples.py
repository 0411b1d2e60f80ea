"""`backtrail path-samples`: images along a degradation path and on the student's way back (DisBack, Fig. 3)."""

from pathlib import Path

from torch import Tensor

from backtrail import layout
from backtrail.data.dataset import to_uint8
from backtrail.denoiser import NetDenoiser
from backtrail.methods.disback.path import load_path
from backtrail.nets.build import load_denoiser
from backtrail.parameters.report import Report
from backtrail.parameters.sampling import TeacherSamples
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.sampling.sample import Sampler, sample
from backtrail.sampling.student import student_sampling
from backtrail.tensors import load_tensors, save_tensors
from backtrail.training.progress import progress


@torch_stage
def command(stage: TorchStage) -> None:
    """Sample each node of the path as a diffusion model, with the reference sampler at its longest, and each snapshot of the student.

    Image i starts from the noise of seed i in every row.
    """
    p, n_images = stage.section(TeacherSamples, "teacher_samples"), stage.value(Report, "report.sample_columns")
    path, files = load_path(layout.path(*stage.of_method)), sorted(Path(layout.snapshots(*stage.of_method)).glob("student-*.safetensors"))
    as_diffusion = reference_sampler(p, path.teacher)
    (as_student,) = student_sampling(files[0]).samplers(None, [1.0])
    images, rows = {}, []
    with progress(len(path.nodes) + len(files), unit="model") as tick:
        for index, node in enumerate(path.nodes):
            place = path.table.iloc[index]
            rows.append({"key": f"node-{index:03d}", "node": index, "step": int(place["step"]), "loss_student": place["loss_student"]})
            images[rows[-1]["key"]] = draw(stage.place(node), as_diffusion, n_images)
            tick(len(rows))
        for file in files:
            rows.append({"key": file.stem, "node": int(load_tensors(file)[1]["node"]), "update": int(file.stem.split("-")[1])})
            images[file.stem] = draw(stage.place(load_denoiser(file)), as_student, n_images)
            tick(len(rows))
    metadata = {"method": stage.method, "seed": stage.seed, "n_images": n_images, "first_seed": 0}
    save_tensors(layout.path_samples(stage.method), images, {**metadata, "sampler": f"{p.reference}/nfe{as_diffusion.nfe}", "rows": rows})


def reference_sampler(p: TeacherSamples, teacher: NetDenoiser) -> Sampler:
    """The reference sampler at its longest."""
    s = p.samplers[p.reference]
    options = {"guidance": s.guidance, "threshold": s.threshold, "within": teacher.noise_range}
    return Sampler(s.solver, max(s.num_steps), s.schedule, s.afs, **options)


def draw(model: NetDenoiser, sampler: Sampler, n_images: int) -> Tensor:
    """The first images of a model, uint8 [n_images, C, H, W]."""
    return to_uint8(sample(model, sampler, range(n_images), model.image_shape, model.conditions, device=model.device))
