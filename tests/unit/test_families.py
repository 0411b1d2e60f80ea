"""What each family says of its students: how they are sampled, from their file alone, and what they start from."""

import pytest
import torch

from backtrail.data.dataset import Labelled
from backtrail.errors import UserError
from backtrail.methods.disback import family as disback
from backtrail.methods.disback.path import Origin
from backtrail.methods.disback.recording import record
from backtrail.methods.sfd import family as sfd
from backtrail.nets.build import save_denoiser, with_step_condition
from backtrail.parameters.metrics import Mismatch
from backtrail.sampling.sample import Sampler
from backtrail.sampling.student import student_sampling
from backtrail.tensors import tensors_digest
from unit import test_score_distillation as score
from unit import test_trajectory_distillation as trajectory
from unit.oracles import tiny_denoiser


def saved(tmp_path, net, sampling, **facts):
    save_denoiser(tmp_path / "student.safetensors", net, sampling=sampling.model_dump(mode="json"), **facts)
    return tmp_path / "student.safetensors"


def test_a_one_step_student_says_its_noise_level(tmp_path):
    found = student_sampling(saved(tmp_path, tiny_denoiser(), disback.sampling(score.parameters(sigma_init=1.5), tiny_denoiser())))
    assert found.samplers([], [1.0]) == [Sampler(sigma_init=1.5)] and found.trained_nfe == [1]


def test_a_few_step_student_says_its_time_stamps_and_whether_it_is_told_them(tmp_path):
    p = trajectory.parameters(num_steps=[4, 6], step_condition="zero", schedule={"t_min": 0.01, "rho": 5.0})
    found = student_sampling(saved(tmp_path, with_step_condition(tiny_denoiser()), sfd.sampling(p)))
    expected = [Sampler("euler", n, p.schedule, afs=True, step_condition=True, guidance=w) for w in (1.0, 2.0) for n in (4, 9)]
    assert found.samplers([4, 9], [1.0, 2.0]) == expected and found.trained_nfe == [2, 4]


def test_a_second_stages_student_is_told_what_its_teacher_is_told():
    p = trajectory.parameters(**trajectory.SECOND)
    assert not sfd.sampling(p, tiny_denoiser()).step_condition
    assert sfd.sampling(p, with_step_condition(tiny_denoiser())).step_condition


def test_a_file_that_does_not_say_how_it_is_sampled_is_refused(tmp_path):
    save_denoiser(tmp_path / "student.safetensors", tiny_denoiser())
    with pytest.raises(UserError, match=r"student.safetensors does not say how its student is sampled: run the stage"):
        student_sampling(tmp_path / "student.safetensors")


def test_score_distillation_starts_from_a_one_evaluation_student_at_its_own_noise_level(tmp_path):
    student = with_step_condition(tiny_denoiser(3), random_start=True)
    facts = sfd.sampling(trajectory.parameters(**trajectory.SECOND), student)
    file, teacher = saved(tmp_path, student, facts, cost=77), tiny_denoiser()
    assert disback.origin(teacher, None, score.parameters()).start is None
    found = disback.origin(teacher, file, score.parameters(sigma_init=3.107122))
    assert found.start_cost == 77 and found.start.configuration == teacher.configuration
    assert tensors_digest(found.start.state_dict()) != tensors_digest(student.state_dict())
    with pytest.raises(UserError, match=r"student.safetensors is evaluated at sigma 3.107122, and sigma_init = 2.5"):
        disback.origin(teacher, file, score.parameters())
    several = saved(tmp_path, student, sfd.sampling(trajectory.parameters(num_steps=[4, 5], step_condition="zero")), cost=77)
    with pytest.raises(UserError, match=r"student.safetensors makes more than one evaluation, and sigma_init = 3.1"):
        disback.origin(teacher, several, score.parameters(sigma_init=3.107122))


class Counted:
    """Forwards of a net on images, a forward with a gradient as three, whoever copies it."""

    def __init__(self, monkeypatch):
        self.images, forward = 0.0, type(tiny_denoiser()).forward

        def counting(net, x, *rest):
            out = forward(net, x, *rest)
            self.images += len(x) * (3 if out.requires_grad else 1)
            return out

        monkeypatch.setattr(type(tiny_denoiser()), "forward", counting)


def test_counted_forwards_are_those_made(monkeypatch):
    recording = {**score.RECORDING, "evaluation_batch": 16, "candidates": 2}
    p, counted = score.parameters(recording=recording, updates=6, evaluate_every=2), Counted(monkeypatch)
    path, _ = record(Origin(tiny_denoiser()), p, Labelled(torch.zeros(16, *score.SHAPE)), 0)
    # The initial student also draws the samples that the path's loss is measured on, once.
    assert counted.images - 16 == disback.path_forwards(p)
    counted.images = 0
    score.distil(path, p, 0, torch.no_grad()(lambda student: student(torch.zeros(5, *score.SHAPE), torch.tensor(1.0)).sum().item()))
    assert counted.images == disback.training_forwards(p, 5)
    q = trajectory.parameters(cached=False)
    counted.images = 0
    trajectory.run(tiny_denoiser(), q)
    assert counted.images == sfd.training_forwards(q, 0)
    assert disback.mismatch_forwards(p, Mismatch(sigmas=[0.1, 1.0], n_samples=10, fit_steps=3)) == 2 * (4 * 3 * 4 + 10 * 5)
