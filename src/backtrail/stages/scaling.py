"""`backtrail scaling`: one size of the teacher, trained for one budget, measured."""

from backtrail import layout
from backtrail.artifacts import save_json
from backtrail.data.dataset import load_dataset
from backtrail.metrics.evaluate import evaluate, protocol
from backtrail.metrics.measures import load_measure
from backtrail.parameters.metrics import Metrics
from backtrail.parameters.sampling import TeacherSamples
from backtrail.parameters.scaling import Scaling
from backtrail.parameters.teacher import Teacher, TrainedTeacher
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.stages.path_samples import draw, reference_sampler
from backtrail.teachers.train import run_logged, teacher_state, teacher_update


@torch_stage
def command(stage: TorchStage) -> None:
    """Train a teacher of one size for one budget, sample it with the reference sampler, and write its distances beside real images'."""
    p, n = scaled(stage), stage.value(Scaling, "scaling.n_samples")
    dataset, chosen = load_dataset(layout.DATASET), stage.section(TeacherSamples, "teacher_samples")
    state = teacher_state(p, dataset.sigma_data, stage.place, stage.group)
    log = run_logged(state, lambda step: teacher_update(state, p, dataset, step), p, stage.scratch)
    teacher = state.modules["teacher"].eval().requires_grad_(False)
    teacher.load_state_dict(state.averages["teacher"])
    sampler = reference_sampler(chosen, teacher)
    images = draw(teacher, sampler, n)
    m = stage.section(Metrics, "metrics").model_copy(update={"metrics": ["fd"], "n_samples": n, "samplings": 1})
    measures = {name: load_measure(name, stage.device) for name in m.extractors}
    about = {"weights": sum(value.numel() for value in teacher.parameters()), "images": p.steps * p.batch, "nfe": sampler.nfe}
    values = {"teacher": evaluate(images, measures, m), "real": evaluate(dataset.test_images[:n], measures, m)}
    (out,) = (path for path in stage.outputs if path.endswith(".json"))
    save_json(out, {**about, "loss": log[-1]["loss"], "values": values, "protocol": protocol(measures, m, (0, n))})


def scaled(stage: TorchStage) -> Teacher:
    """The teacher that this stage trains: of the section `teacher`, with another size and another budget."""
    p, item = stage.section(TrainedTeacher, "teacher"), stage.declared.item
    channels = stage.parameters[f"scaling.channels.{item['size']}"]
    return p.model_copy(update={"net": p.net.model_copy(update={"channels": channels}), "steps": item["steps"]})
