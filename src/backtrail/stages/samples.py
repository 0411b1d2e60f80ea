"""`backtrail samples`: images of a student.

Apart from `metrics`, though a job more costs 8 CPU s to start and to record: another metric or reference then draws no image again.
"""

from backtrail import layout
from backtrail.data.dataset import to_uint8
from backtrail.nets.build import load_denoiser
from backtrail.parameters.students import Sampling
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.sampling.sample import STATES_SHOWN, sample, sample_states
from backtrail.sampling.student import student_sampling
from backtrail.stages.teacher_samples import n_drawn
from backtrail.tensors import save_tensors


@torch_stage
def command(stage: TorchStage) -> None:
    """Sample a student at each number of evaluations that the list of students names; one archive of uint8 images, image i from seed i.

    Beside it, the whole way from noise of the first images.
    """
    sampling, n_images, file = stage.section(Sampling, f"students.{stage.method}"), n_drawn(stage), layout.student(*stage.of_method)
    student, facts = stage.place(load_denoiser(file)), student_sampling(file)
    images, states, times = {}, {}, {}
    for way in facts.samplers(sampling.num_steps, sampling.guidance):
        key = f"{way.name_of_student}/nfe{way.nfe}"
        drawn = sample(student, way, range(n_images), student.image_shape, student.conditions, device=stage.device)
        images[key], states[key], times[key] = to_uint8(drawn), sample_states(student, way, STATES_SHOWN), way.levels()
    metadata = {"method": stage.method, "seed": stage.seed, "first_seed": 0, "trained_nfe": sorted(facts.trained_nfe)}
    save_tensors(layout.samples(*stage.of_method), images, {**metadata, "n_images": n_images})
    save_tensors(layout.states(*stage.of_method), states, {**metadata, "n_images": STATES_SHOWN, "times": times})
