"""`backtrail text-one-step`: Diff-Instruct or DisBack on the latent teacher, from the recording of its path to its student."""

import pandas as pd

from backtrail import layout
from backtrail.data.caption_archive import load_captions
from backtrail.denoiser import NetDenoiser
from backtrail.methods.disback import family
from backtrail.methods.disback.distillation import distil
from backtrail.methods.disback.path import Origin, load_path, save_path
from backtrail.methods.disback.recording import record
from backtrail.metrics.decoded import curve_point
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.text import TextEvaluation, TextWorld
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.tables import save_csv
from backtrail.teachers.latents import load_latents
from backtrail.teachers.prompts import prompts, training_data
from backtrail.training.loop import Execution


@torch_stage
def command(stage: TorchStage) -> None:
    """Record the path of a student and train it along the path; writes the path, the averaged student and its curve."""
    p, e = stage.section(ScoreDistillation, f"score_distillation.{stage.method}"), stage.section(TextEvaluation, "evaluation")
    told = prompts(load_captions(layout.CAPTIONS), stage.value(TextWorld, "text.null_text"), e.prompts)

    def place(denoiser: NetDenoiser) -> NetDenoiser:
        denoiser.told = told
        return stage.place(denoiser)

    nodes, data = layout.path(*stage.of_method), training_data(load_latents(layout.LATENTS), e.prompts)
    # A recording takes seconds: the state that a killed stage keeps is that of the student alone.
    save_path(nodes, *record(Origin(load_denoiser(layout.TEACHER)).placed(place), p, data, stage.seed))
    path = load_path(nodes).placed(place)
    sampling = family.sampling(p, path.teacher)
    distance = curve_point(sampling.samplers(None, [1.0])[0], e.n_curve, stage.device)
    state = distil(path, p, stage.seed, distance, Execution(stage.scratch))
    facts = {"cost": state.rows[-1]["cost"], "sampling": sampling.model_dump(mode="json")}
    save_denoiser(layout.student(*stage.of_method), state.modules["student"], state.averages["student"], **facts)
    save_csv(layout.curve(*stage.of_method), pd.DataFrame(state.rows))
