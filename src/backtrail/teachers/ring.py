"""Train the teacher of a ring of Gaussians: as the built-in teacher, on fresh points at each step."""

import math

from backtrail.data.ring import Ring
from backtrail.denoiser import NetDenoiser
from backtrail.nets.build import build
from backtrail.parameters.teacher import Teacher
from backtrail.randomness import Draw
from backtrail.training.loop import Losses, run
from backtrail.training.noise import per_value, score_matching_loss
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState, adam, optimiser_step, update_average, weights


def ring_teacher(ring: Ring, p: Teacher, scratch: Scratch | None = None) -> NetDenoiser:
    """A denoiser fitted to fresh points of the ring at each step; the averaged weights, frozen."""
    net = build(p.net, ring.sigma_data, p.seed)
    state = TrainingState({"teacher": net}, {"teacher": adam(net, p.optimiser)}, averages={"teacher": weights(net)})

    def update(step: int) -> Losses:
        points = ring.points(p.batch, p.seed, "teacher-batch", step)
        loss = score_matching_loss(net, points, p.noise, Draw(p.seed, "teacher", step))
        loss.backward()
        optimiser_step(state.optimisers["teacher"], p.optimiser, step, factor=(1 + math.cos(math.pi * step / p.steps)) / 2)
        update_average(state.averages["teacher"], net, p.average, step, p.batch)
        return {"loss": per_value(loss, points).item()}

    for _ in run(state, update, p.steps, scratch):
        pass
    net.load_state_dict(state.averages["teacher"])
    return net.eval().requires_grad_(False)
