"""`backtrail teacher-samples`: the teacher sampled with its own solvers, the baselines that students are held against."""

from backtrail import layout
from backtrail.data.dataset import to_uint8
from backtrail.denoiser import NetDenoiser
from backtrail.nets.build import load_denoiser
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.sampling import TeacherSamples
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.sampling.sample import STATES_SHOWN, Sampler, sample, sample_states
from backtrail.tensors import save_tensors
from backtrail.training.progress import progress


@torch_stage
def command(stage: TorchStage) -> None:
    """Sample the teacher with each solver at each length; one archive of uint8 images, image i from seed i.

    Beside it, the whole way from noise of the first images, of the reference sampler.
    """
    p, n_images = stage.section(TeacherSamples, "teacher_samples"), n_drawn(stage)
    teacher = stage.place(load_denoiser(layout.TEACHER))
    runs = teacher_samplers(p, teacher)
    images, states, times = {}, {}, {}
    with progress(len(runs), unit="sampler") as tick:
        for done, (name, sampler) in enumerate(runs, start=1):
            key = f"{name}/nfe{sampler.nfe}"
            images[key] = to_uint8(sample(teacher, sampler, range(n_images), teacher.image_shape, teacher.conditions, device=stage.device))
            if name == p.reference:
                states[key], times[key] = sample_states(teacher, sampler, STATES_SHOWN), sampler.levels()
            tick(done)
    metadata = {"method": layout.TEACHER_NAME, "first_seed": 0}
    save_tensors(layout.samples(), images, {**metadata, "n_images": n_images, "trained_nfe": []})
    save_tensors(layout.states(), states, {**metadata, "n_images": STATES_SHOWN, "times": times})


def teacher_samplers(p: TeacherSamples, teacher: NetDenoiser) -> list[tuple[str, Sampler]]:
    """Each solver of the teacher at each length, by its name. Raises UserError for a schedule that the teacher's levels do not allow."""
    for s in p.samplers.values():
        teacher.check_schedule(s.schedule)
    return [
        (name, Sampler(s.solver, num_steps, s.schedule, s.afs, guidance=s.guidance, threshold=s.threshold, within=teacher.noise_range))
        for name, s in p.samplers.items()
        for num_steps in s.num_steps
    ]


def n_drawn(stage: TorchStage) -> int:
    """Images drawn for all sets of a model and a sampler, count."""
    return stage.value(Metrics, "metrics.n_samples") * stage.value(Metrics, "metrics.samplings")
