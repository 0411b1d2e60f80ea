"""`backtrail ring-run`: one method on the ring of Gaussians, from the recording of its path to its student."""

from collections.abc import Callable

import pandas as pd
import torch

from backtrail import layout
from backtrail.data.dataset import Labelled
from backtrail.data.ring import Ring
from backtrail.denoiser import NetDenoiser
from backtrail.methods.disback import family
from backtrail.methods.disback.distillation import distil
from backtrail.methods.disback.one_step import generate, student_input
from backtrail.methods.disback.path import Origin, load_path, save_path
from backtrail.methods.disback.recording import record
from backtrail.metrics.mismatch import mismatch
from backtrail.metrics.points import PointsDenoiser
from backtrail.metrics.wasserstein import sliced_wasserstein
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.parameters.ring import RingEvaluation, RingLaw
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.randomness import Draw
from backtrail.running.torch_stage import TorchStage, torch_stage
from backtrail.tables import save_csv
from backtrail.training.loop import Execution

N_PATH_LOSS = 1024  # points of the ring on which the path's loss on data is measured, at most


@torch_stage
def command(stage: TorchStage) -> None:
    """Record the path of a student and train it; writes the path, the averaged student, its curve, and the mismatch at its snapshots."""
    law, e = stage.section(RingLaw, "ring"), stage.section(RingEvaluation, "evaluation")
    p, ring, seed = stage.section(ScoreDistillation, f"score_distillation.{stage.method}"), Ring(**law.model_dump()), stage.seed
    nodes = layout.path(*stage.of_method)
    # A recording takes seconds: the state that a killed stage keeps is that of the student alone.
    save_path(nodes, *record(Origin(load_denoiser(layout.TEACHER)), p, Labelled(ring.points(N_PATH_LOSS, 0, "data")), seed))
    path = load_path(nodes)
    distance = distance_to(ring, path.teacher, p, e)
    state = distil(path, p, seed, distance, Execution(stage.scratch))
    facts = {"sampling": family.sampling(p, path.teacher).model_dump(mode="json")}
    save_denoiser(layout.student(*stage.of_method), state.modules["student"], state.averages["student"], **facts)
    rows = pd.DataFrame(state.rows).rename(columns={"fd_classifier": "sliced_w2"})
    save_csv(layout.curve(*stage.of_method), rows)
    node_at, snapshots = dict(zip(rows["update"], rows["node"], strict=True)), []
    for name, weights in sorted(state.snapshots.items()):
        if name.startswith("student"):
            update = int(name.split("-")[1])
            state.modules["student"].load_state_dict(weights)
            measured = exact_mismatch(path.nodes[node_at[update]], state.modules["student"].eval(), p, e)
            place = {"update": update, "total_updates": update + path.recorded_steps, "node": node_at[update]}
            snapshots.append(place | {"sliced_w2": distance(state.modules["student"]), **measured})
    save_csv(layout.mismatch(*stage.of_method), pd.DataFrame(snapshots))


def distance_to(ring: Ring, teacher: NetDenoiser, p: ScoreDistillation, e: RingEvaluation) -> Callable[[NetDenoiser], float]:
    """The sliced 2-Wasserstein distance of a student's points to the ring's, always from the same noise and to the same points."""
    z = student_input(teacher, e.n_points, p.sigma_init, Draw(0, "evaluation"))
    reference = ring.points(e.n_points, 0, "reference")

    @torch.no_grad()
    def distance(student: NetDenoiser) -> float:
        return sliced_wasserstein(generate(student, z, p.sigma_init), reference)

    return distance


@torch.no_grad()
def exact_mismatch(target: NetDenoiser, student: NetDenoiser, p: ScoreDistillation, e: RingEvaluation) -> dict[str, float]:
    """The mismatch degree of `target` on a student's points, its reference being the denoiser of other points of the same student."""
    others, points = (
        generate(student, student_input(student, n, p.sigma_init, Draw(0, purpose)), p.sigma_init)
        for n, purpose in ((e.n_points, "evaluation"), (e.mismatch_points, "mismatch-z"))
    )
    return mismatch(target, PointsDenoiser(others), points, [e.mismatch_sigma]).iloc[0].to_dict()
