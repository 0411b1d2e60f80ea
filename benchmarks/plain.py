"""The same work in plain eager loops, the way the papers' own codes go about it: what the package's speed is held against.

Common to them: torch's default Adam (not fused), every gradient passed through `nan_to_num`, the average made through a temporary, noise
drawn where the nets are. Neither Diff-Instruct nor DisBack nor SFD computes a gradient for teacher or fake score in the student's step, so
none is computed and thrown away here either. What they differ in:

- Diff-Instruct, as released, draws a fresh input for each of its two steps and runs the student twice: 9 forwards.
- DisBack, as its pseudo-code says, uses one sample for both steps, the student's first: 8 forwards.
- SFD computes its teacher's trajectory in every round: nothing is cached.
- Algorithm 1 and the recording of the path have no released code: these loops follow the formulas.

The solvers and the nets are the package's, and so are threads, precision and determinism: what is compared is the loop around them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from backtrail.data.dataset import Dataset, to_float
from backtrail.denoiser import Condition, NetDenoiser, per_image
from backtrail.methods.sfd.distillation import plan
from backtrail.methods.sfd.trajectories import student_times, teacher_times
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.teacher import Teacher
from backtrail.parameters.training import Adam
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.sampling.solvers import SOLVERS

Update = Callable[[int], object]
P_MEAN, P_STD, EMA_DECAY = -1.2, 1.2, 0.999


def adam(net: nn.Module, p: Adam) -> Optimizer:
    """Adam as torch gives it when nothing is said."""
    return torch.optim.Adam(net.parameters(), lr=p.lr, betas=p.betas)


def follow(optimiser: Optimizer) -> None:
    """Gradients repaired in silence, one update, gradients dropped."""
    for parameter in optimiser.param_groups[0]["params"]:
        if parameter.grad is not None:
            torch.nan_to_num(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=parameter.grad)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


@torch.no_grad()
def average(ema: list[Tensor], net: nn.Module) -> None:
    """Move the average towards the weights, as EDM does."""
    for mean, parameter in zip(ema, net.parameters(), strict=True):
        mean.copy_(parameter.lerp(mean, EMA_DECAY))


def copies(net: nn.Module) -> list[Tensor]:
    """A copy of the weights, to start an average from."""
    return [parameter.detach().clone() for parameter in net.parameters()]


def diffused(x0: Tensor) -> tuple[Tensor, Tensor]:
    """x_t = x_0 + sigma eps at EDM's noise levels: (x_t, sigma [B])."""
    sigma = (P_MEAN + P_STD * torch.randn(len(x0), device=x0.device)).exp()
    return x0 + per_image(sigma, x0) * torch.randn_like(x0), sigma


def matching(net: NetDenoiser, x0: Tensor, condition: Condition) -> Tensor:
    """EDM's loss of denoising score matching on x0."""
    noisy, sigma = diffused(x0)
    weight = (sigma**2 + net.sigma_data**2) / (sigma * net.sigma_data) ** 2
    return (per_image(weight, x0) * (net(noisy, sigma, condition) - x0) ** 2).flatten(1).sum(1).mean()


def told(net: NetDenoiser, batch: int) -> Condition:
    """Random labels for a conditional net."""
    return Condition(torch.randint(net.n_classes, (batch,), device=net.device) if net.n_classes else None)


def sampled(student: NetDenoiser, p: ScoreDistillation, shape: tuple[int, ...], condition: Condition) -> Tensor:
    """x_0 = D(sigma_init z, sigma_init)."""
    z = p.sigma_init * torch.randn(p.batch, *shape, device=student.device)
    return student(z, torch.tensor(p.sigma_init, device=student.device), condition)


def teacher(net: NetDenoiser, p: Teacher, dataset: Dataset) -> Update:
    """EDM's training: 3 forwards."""
    optimiser, ema = adam(net, p.optimiser), copies(net)

    def update(step: int) -> None:
        rows = torch.randint(len(dataset.train_images), (p.batch,))
        matching(net, to_float(dataset.train_images[rows].to(net.device)), told(net, p.batch)).backward()
        follow(optimiser)
        average(ema, net)

    return update


def recording(student: NetDenoiser, node: NetDenoiser, p: ScoreDistillation, shape: tuple[int, ...]) -> Update:
    """DisBack's degradation recording: 4 forwards."""
    assert p.recording is not None
    optimiser = adam(node, p.recording.optimiser)

    def update(step: int) -> None:
        condition = told(node, p.batch)
        with torch.no_grad():
            x0 = sampled(student, p, shape, condition)
        matching(node, x0, condition).backward()
        follow(optimiser)

    return update


def diff_instruct(target: NetDenoiser, student: NetDenoiser, fake: NetDenoiser, p: ScoreDistillation, shape: tuple[int, ...]) -> Update:
    """Diff-Instruct as released: the student runs once for the fake score's step and once more for its own, 9 forwards."""
    of_student, of_fake, ema = adam(student, p.student), adam(fake, p.fake), copies(student)

    def update(step: int) -> None:
        condition = told(target, p.batch)
        with torch.no_grad():
            x0 = sampled(student, p, shape, condition)
        matching(fake, x0, condition).backward()
        follow(of_fake)
        condition = told(target, p.batch)
        x0 = sampled(student, p, shape, condition)
        with torch.no_grad():
            noisy, sigma = diffused(x0)
            gradient = fake(noisy, sigma, condition) - target(noisy, sigma, condition)
        (gradient * x0).flatten(1).sum(1).mean().backward()
        follow(of_student)
        average(ema, student)

    return update


def disback(target: NetDenoiser, student: NetDenoiser, fake: NetDenoiser, p: ScoreDistillation, shape: tuple[int, ...]) -> Update:
    """DisBack's second stage by its pseudo-code: one sample, the student's step, then the fake score's, 8 forwards."""
    of_student, of_fake, ema = adam(student, p.student), adam(fake, p.fake), copies(student)

    def update(step: int) -> None:
        condition = told(target, p.batch)
        x0 = sampled(student, p, shape, condition)
        noisy, sigma = diffused(x0)
        with torch.no_grad():
            scores = [(net(noisy, sigma, condition) - noisy) / per_image(sigma, noisy) ** 2 for net in (fake, target)]
        noisy.backward((scores[0] - scores[1]) / len(x0))
        follow(of_student)
        matching(fake, x0.detach(), condition).backward()
        follow(of_fake)
        average(ema, student)

    return update


def trajectory(target: NetDenoiser, student: NetDenoiser, p: TrajectoryDistillation, dataset: Dataset) -> Update:
    """A round of SFD, with the teacher's whole trajectory, or of Algorithm 1, with one step of it from noisy images."""
    optimiser = adam(student, p.optimiser)

    def update(step: int) -> None:
        num_steps, _ = plan(p, 0, step)
        times, finer = student_times(p, num_steps).tolist(), teacher_times(p, num_steps)
        condition, first, last = told(target, p.batch), 0, num_steps - 1
        x = times[0] * torch.randn(p.batch, *dataset.train_images.shape[1:], device=target.device)
        if p.inputs == "data":
            first = int(torch.randint(int(p.afs), num_steps - 1, ()))
            last, finer = first + 1, finer[first * p.substeps : (first + 1) * p.substeps + 1]
            x = to_float(dataset.train_images[: p.batch].to(target.device)) + times[first] / times[0] * x
        with torch.no_grad():
            states = [x, *SOLVERS[p.solver](target, x, finer, condition)][:: p.substeps]
        condition = Condition(
            condition.labels, torch.full((p.batch,), float(num_steps), device=x.device) if student.step_condition else None
        )
        for index in range(first, last):
            t, t_next = times[index], times[index + 1]
            if p.afs and index == 0:
                x = x + (t_next - t) * x / (1 + t**2) ** 0.5
                continue
            moved = x + (t_next - t) * (x - student(x, torch.tensor(t, device=x.device), condition)) / t
            (moved - states[index - first + 1]).abs().flatten(1).sum(1).mean().backward()
            follow(optimiser)
            x = moved.detach()

    return update
