"""Discrete-time networks: betas, levels, maps from sigma to t, schedules and estimates, against values computed apart in numpy float64."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from torch import nn

from backtrail.conditions import Condition, time_ids
from backtrail.denoiser import EDMDenoiser, Guided
from backtrail.errors import UserError
from backtrail.levels import TIME_MAPS, betas, level_at, noise_levels, signal, time_in, time_steps
from backtrail.methods.disback.distillation import score_gradient
from backtrail.methods.disback.one_step import generate, student_input
from backtrail.nets.discrete_time import DiscreteTime, DiscreteTimeDenoiser
from backtrail.nets.unet import sinusoidal
from backtrail.parameters.base import validate
from backtrail.parameters.discrete_time import STABLE_DIFFUSION, Betas, TimeStep
from backtrail.parameters.sampling import Schedule
from backtrail.parameters.training import DiscreteSteps, KarrasGrid, LogNormal
from backtrail.randomness import Draw
from backtrail.sampling.sample import Sampler
from backtrail.sampling.schedules import discrete, schedule
from backtrail.sampling.solvers import SOLVERS, AnalyticalFirstStep
from backtrail.training.noise import denoising_loss, draw_sigma

SD = STABLE_DIFFUSION
LSUN = Betas(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
STEPS = [0, 1, 249, 399, 499, 749, 980, 999]
GOLDEN = {  # a_t and sigma_t at STEPS
    "sd": (
        SD,
        [0.9991500000, 0.9982960278, 0.6754324137, 0.4260863636, 0.2776696505, 0.05662349160, 0.005843783319, 0.004660098513],
        [0.02916715815, 0.04131441200, 0.6932048996, 1.160578322, 1.612886194, 4.081729364, 13.04308319, 14.61464123],
    ),
    "lsun": (
        LSUN,
        [0.9985000000, 0.9969944271, 0.5105143008, 0.2359244741, 0.1158444908, 0.008444830490, 0.0002058665548, 0.0001423039752],
        [0.03875891356, 0.05490567941, 0.9791879219, 1.799623463, 2.762654889, 10.83584972, 69.68870492, 83.82249447],
    ),
}


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", GOLDEN)
def test_signal_and_levels(name):
    p, of_signal, of_sigma = GOLDEN[name]
    assert signal(p)[STEPS].tolist() == pytest.approx(of_signal, rel=1e-8)
    assert noise_levels(p)[STEPS].tolist() == pytest.approx(of_sigma, rel=1e-8)
    assert betas(p)[[0, -1]].tolist() == pytest.approx([p.beta_start, p.beta_end], rel=1e-12)


def test_zero_terminal_signal():
    p = SD.model_copy(update={"rescale_betas_zero_snr": True})
    found = signal(p)
    assert found[[249, 499, 749, 998]].tolist() == pytest.approx([0.6541890065, 0.2423591666, 0.03317148283, 1.967888057e-7], rel=1e-8)
    assert found[0] == pytest.approx(signal(SD)[0].item(), rel=1e-12) and found[999] == 0
    assert len(noise_levels(p)) == 999 and noise_levels(p).isfinite().all()


@pytest.mark.parametrize(
    ("n", "leading", "trailing", "linspace"),
    [
        (4, [751, 501, 251, 1], [999, 749, 499, 249], [999, 666, 333, 0]),
        (6, [831, 665, 499, 333, 167, 1], [999, 832, 666, 499, 332, 166], [999, 799, 599, 400, 200, 0]),
        (8, [876, 751, 626, 501, 376, 251, 126, 1], [999, 874, 749, 624, 499, 374, 249, 124], [999, 856, 714, 571, 428, 285, 143, 0]),
    ],
)
def test_time_steps_of_each_spacing(n, leading, trailing, linspace):
    found = {spacing: time_steps(spacing, n, offset=spacing == "leading") for spacing in ("leading", "trailing", "linspace")}
    assert found == {"leading": leading, "trailing": trailing, "linspace": linspace}
    pndm = PNDMScheduler(skip_prk_steps=True, steps_offset=1)  # Stable Diffusion's: leading, its second value twice
    pndm.set_timesteps(n)
    assert pndm.timesteps.tolist() == [*leading[:2], *leading[1:]]


@pytest.mark.parametrize("n", [1, 3, 7, 20, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_time_steps_are_the_librarys(spacing, n):
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=spacing == "leading")
    scheduler.set_timesteps(n)
    found = time_steps(spacing, n, offset=spacing == "leading")
    assert found == scheduler.timesteps.tolist() or (spacing == "linspace" and n == 1)  # one step is the first for numpy, the last here


SIGMAS = [0.02, 0.05, 0.1, 0.5, 1, 2, 5, 10, 20]
MAPPED = {
    "ln-alpha": [-0.526792581, 1.920531811, 10.37169259, 169.3139799, 353.8902478, 562.2858392, 795.1730527, 933.5067603, 1050.790311],
    "ln-sigma": [0, 1.933854356, 10.38219681, 169.3147706, 353.8904106, 562.2859809, 795.1730776, 933.5067739, 999],
    "nearest": [0, 2, 10, 169, 354, 562, 795, 934, 999],
    "floor": [0, 1.933854356, 10.38219681, 169.3147706, 353.8904106, 562.2859809, 795.1730776, 933.5067739, 999],
}


@pytest.mark.parametrize("name", TIME_MAPS)
def test_the_maps_from_sigma_to_time(name):
    levels, sigma = noise_levels(SD), doubles(*SIGMAS)
    time, level = TIME_MAPS[name](sigma, levels)
    assert time.tolist() == pytest.approx(MAPPED[name], rel=1e-8)
    taken = {"nearest": time.long(), "floor": time.floor().long()}
    assert torch.equal(level, levels[taken[name]] if name in taken else sigma)
    whole, own = TIME_MAPS[name](levels, levels)
    assert torch.equal(whole, torch.arange(1000).double()) and torch.equal(own, levels)


def test_levels_between_the_steps():
    levels, times = noise_levels(SD), doubles(0.5, 499.5, 998.5)
    golden = {
        "ln-alpha": [0.03575905994, 1.615581507, 14.57039210],
        "sigma": [0.03524078507, 1.615582510, 14.57045846],
        "ln-sigma": [0.03471345544, 1.615580260, 14.57039147],
    }
    for scale, expected in golden.items():
        assert level_at(scale, times, levels).tolist() == pytest.approx(expected, rel=1e-8)
        assert time_in(scale, level_at(scale, times, levels), levels).tolist() == pytest.approx(times.tolist(), rel=1e-10)


SD_GRIDS = {
    4: [14.6146412293, 2.9574145607, 0.9543242473, 0.1],
    7: [14.6146412293, 5.9983045337, 2.9574145607, 1.6438258958, 0.9543242473, 0.5134122728, 0.1],
}
LSUN_GRIDS = {
    4: [83.8224945, 6.4603174, 1.3742720, 0.006],
    7: [83.8224945, 19.6254427, 6.4603174, 2.7628364, 1.3742720, 0.6736020, 0.006],
}
TIMES = [999, 834.228615, 669.457231, 504.685846, 339.914462, 175.143077, 10.371693]


@pytest.mark.parametrize("n", SD_GRIDS)
def test_the_schedule_in_a_teachers_own_steps(n):
    top = noise_levels(SD)[-1].item()
    assert discrete(n, 0.1, top).tolist() == pytest.approx(SD_GRIDS[n], rel=1e-9)
    grid = schedule("discrete", n, 0.006, noise_levels(LSUN)[-1].item(), 1.0, LSUN)
    assert grid.tolist() == pytest.approx(LSUN_GRIDS[n], abs=6e-8)
    if n == 7:
        assert time_in("ln-alpha", discrete(n, 0.1, top), noise_levels(SD)).tolist() == pytest.approx(TIMES, abs=6e-7)
        assert time_in("ln-alpha", grid[-1:], noise_levels(LSUN)).item() == pytest.approx(-0.970943, abs=6e-7)


def test_the_analytical_first_step_on_those_schedules():
    for p, t_min, expected in (
        (SD, 0.1, [0.2042204215, 0.2843729148, 0.3532745061, 0.4118065146]),
        (LSUN, 0.006, [0.0771370751, 0.1293395862, 0.1828791196, 0.2341854738]),
    ):
        for n, factor in zip(range(4, 8), expected, strict=True):
            times = discrete(n, t_min, noise_levels(p)[-1].item(), 1.0, p)[:2]
            (x,) = SOLVERS["euler"](AnalyticalFirstStep(lambda *_: None), doubles(1.0).reshape(1, 1, 1, 1), times)
            assert x.item() == pytest.approx(factor, rel=1e-8)


@pytest.mark.parametrize(
    ("n", "golden"),
    [
        (4, {"euler": 0.2617254789, "dpmpp-2m-eps": 0.2708420154, "dpmpp-2m": 0.2708420154}),
        (13, {"euler": 0.3623967128, "dpmpp-2m-eps": 0.3856615254, "dpmpp-2m": 0.3890587797}),
        (25, {"euler": 0.3817974376, "dpmpp-2m-eps": 0.3974782001, "dpmpp-2m": 0.3990203428}),
    ],
)
def test_solvers_on_stable_diffusions_schedule(n, golden):
    """For data N(0, 0.64): D = .64 x / (.64 + s^2), whose solution at s = .1 is .4025102922 from .5 sigma_999."""
    top = noise_levels(SD)[-1].item()
    for solver, expected in golden.items():
        denoiser, start = (lambda x, s, condition: 0.64 * x / (0.64 + s**2)), doubles(0.5 * top).reshape(1, 1, 1, 1)
        *_, x = SOLVERS[solver](denoiser, start, discrete(n, 0.1, top))
        assert x.item() == pytest.approx(expected, rel=1e-8)
    assert 0.5 * top * math.sqrt((0.64 + 0.01) / (0.64 + top**2)) == pytest.approx(0.4025102922, rel=1e-8)


class Constant(nn.Module):
    """A network that always estimates the same."""

    image_shape, n_classes, step_condition = (1, 1, 1), 0, False

    def __init__(self, value: float):
        super().__init__()
        self.value, self.seen = value, []

    def forward(self, x_t, time, condition=None):
        self.seen.append((x_t, time))
        return torch.full_like(x_t, self.value)


def denoiser(value: float, **settings) -> DiscreteTimeDenoiser:
    return DiscreteTimeDenoiser(Constant(value), DiscreteTime(**SD.model_dump(), **settings))


def one(value: float) -> torch.Tensor:
    return doubles(value).reshape(1, 1, 1, 1)


@pytest.mark.parametrize(("prediction", "expected"), [("epsilon", 1.596778451), ("v_prediction", 0.3428642510), ("sample", 0.25)])
def test_the_wrap(prediction, expected):
    model = denoiser(0.25, prediction_type=prediction)
    assert model(one(2.0), model.sigmas[499]).item() == pytest.approx(expected, rel=1e-8)
    ((x_t, time),) = model.net.seen
    assert (x_t.item(), time.item()) == pytest.approx((1.053887376, 499.0), rel=1e-9)


def test_the_targets_of_the_network_give_the_clean_image_and_its_own_loss():
    """v = sqrt(a) eps - sqrt(1 - a) x0 at step 499: a network that says it is right, and one that is off by d has the loss d^2."""
    x0, noise, a = 0.3, -1.1, signal(SD)[499].item()
    x_t = math.sqrt(a) * x0 + math.sqrt(1 - a) * noise
    v = math.sqrt(a) * noise - math.sqrt(1 - a) * x0
    assert (x_t, v) == pytest.approx((-0.7768071133, -0.8346081169), rel=1e-9)
    for prediction, target in (("epsilon", noise), ("v_prediction", v), ("sample", x0)):
        right, off = denoiser(target, prediction_type=prediction), denoiser(target + 0.25, prediction_type=prediction)
        x, sigma = one(x_t / math.sqrt(a)), right.sigmas[[499]]
        assert right(x, sigma).item() == pytest.approx(x0, rel=1e-9)
        assert denoising_loss(off, off(x, sigma), one(x0), sigma).item() == pytest.approx(0.0625, rel=1e-9)


def test_a_step_of_ddim_is_eulers():
    """x_t = .8, eps = .5 from 981 to 961 and from 1 to the end, where the library's set_alpha_to_one decides between 0 and level 0."""
    model = denoiser(0.5)
    x = 0.8 / signal(SD)[981].sqrt()
    assert x.item() == pytest.approx(10.526771298, rel=1e-9)
    (y,) = SOLVERS["euler"](model, one(x), model.sigmas[[981, 961]])
    assert (y.item(), (y * signal(SD)[961].sqrt()).item()) == pytest.approx((9.804589062, 0.8366553576), rel=1e-9)
    x = one(0.8 / signal(SD)[1].sqrt())
    ends = {True: doubles(0.0), False: model.sigmas[:1]}
    for to_one, expected in {True: 0.7800252552, False: 0.7942710537}.items():
        (y,) = SOLVERS["euler"](model, x, torch.cat([model.sigmas[[1]], ends[to_one]]))
        assert y.item() / math.sqrt(1 + ends[to_one].item() ** 2) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("t", "scale", "expected"), [(399, 1.531973251, 0.9516840899), (999, 14.64881354, 7.341492930)])
def test_a_one_step_student_starts_from_unit_noise_at_its_time_step(t, scale, expected):
    model = denoiser(0.5)
    level = model.level(TimeStep(t=t))
    assert model.start_scale(level) == pytest.approx(scale, rel=1e-9)
    assert generate(model, one(scale), TimeStep(t=t)).item() == pytest.approx(expected, rel=1e-8)
    z = Draw(0, "z").normal((5, 1, 1, 1))
    torch.testing.assert_close(student_input(model, 5, TimeStep(t=t), Draw(0, "z")), model.start_scale(level) * z)
    start, made = Sampler(sigma_init=level).states(model, z)
    torch.testing.assert_close(start, model.start_scale(level) * z)
    assert torch.equal(made, generate(model, start, level)) and model.net.seen[-1][1].tolist() == [t] * 5
    assert denoiser(0.5, start="sigma").start_scale(level) == EDMDenoiser(None, 0.5).start_scale(level) == level


def test_a_time_step_is_for_networks_that_have_it():
    with pytest.raises(UserError, match=r"\{t: 1000\} is beyond the network's time steps, 0 to 999"):
        denoiser(0.5).level(TimeStep(t=1000))
    with pytest.raises(UserError, match=r"\{t: 399\} names a time step, and this network knows none"):
        EDMDenoiser(None, 0.5).level(TimeStep(t=399))


def test_a_guided_denoiser_starts_as_the_one_that_it_guides():
    model, noise = denoiser(0.5), torch.ones(2, 1, 1, 1)
    guided = Guided(model, 3.0, Condition(labels=torch.tensor([4])))
    told = Condition(labels=torch.tensor([1, 2]))
    for sampler in (Sampler(sigma_init=2.0), Sampler("euler", 3, Schedule(t_max=2.0))):
        first, *_ = sampler.states(guided, noise, told)
        assert first[0].item() == pytest.approx(math.sqrt(5), rel=1e-6)
    first, *_ = Sampler(sigma_init=2.0).states(lambda x, s, c: x, noise)
    assert first[0].item() == 2.0


def test_dmds_gradient():
    x0, fake, target = (doubles(*v).reshape(1, 3, 1, 1) for v in ((0.2, -0.4, 1.0), (0.1, -0.2, 0.7), (0.3, 0.0, 0.5)))
    found = score_gradient(fake, target, x0, doubles(1.0), "dmd")
    assert found.flatten().tolist() == pytest.approx([-0.6, -0.6, 0.6], rel=1e-12)
    assert (found**2).mean().item() / 2 == pytest.approx(0.18, rel=1e-12)


@pytest.mark.parametrize(
    ("w", "expected"), [(0.0, (0.2, -0.5)), (1.0, (0.6, 0.1)), (1.75, (0.9, 0.55)), (7.5, (3.2, 4.0)), (8.0, (3.4, 4.3))]
)
def test_guidance(w, expected):
    def model(x, sigma, condition):
        return (doubles(0.6, 0.1) if condition.labels[0] == 1 else doubles(0.2, -0.5)).expand(len(x), 2)

    found = Guided(model, w, Condition(labels=torch.tensor([9])))(torch.zeros(3, 2), doubles(1.0), Condition(labels=torch.ones(3).long()))
    assert found[2].tolist() == pytest.approx(expected, rel=1e-12)


def test_sinusoids():
    wave = sinusoidal(doubles(999.0, 399.0), 320)
    assert wave[0, :3].tolist() == pytest.approx([0.9996498530, 0.8026810221, -0.2781140096], rel=1e-8)
    assert wave[0, 160:163].tolist() == pytest.approx([-0.0264607527, 0.5964085653, -0.9605480715], rel=1e-8)
    assert wave[1, :2].tolist() == pytest.approx([-0.9998427746, 0.9520804125], rel=1e-8)
    wave = sinusoidal(doubles(1024.0), 256)
    assert wave[0, [0, 1, 128, 129]].tolist() == pytest.approx([0.9873536182, -0.5376103157, -0.1585333800, -0.8431934229], rel=1e-8)


def test_time_ids_are_sdxls():
    assert time_ids((1024, 1024), (0, 0), (1024, 1024)).tolist() == [[1024, 1024, 0, 0, 1024, 1024]]
    assert time_ids((28, 30), (1, 2), (32, 34)).tolist() == [[28, 30, 1, 2, 32, 34]]


# --- beside the golden values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["leading", "trailing", "linspace"])
def test_a_teachers_own_steps_are_a_schedule(kind):
    grid = schedule(kind, 9, 0.02, 80.0, 1.0)
    assert torch.equal(grid[:-1], noise_levels(SD)[time_steps(kind, 8, offset=kind == "leading")]) and grid[-1] == 0.02
    with pytest.raises(UserError, match=f"the schedule {kind} does not descend"):
        schedule(kind, 9, 5.0, 80.0, 1.0)


def test_betas_belong_to_schedules_that_count_steps_and_are_written_only_where_they_are_given():
    assert "betas" not in Schedule().model_dump() and Schedule(kind="discrete", betas=LSUN).model_dump()["betas"]["beta_end"] == 0.0195
    with pytest.raises(UserError, match="betas are for the kinds discrete, leading, trailing, linspace; found polynomial"):
        validate(Schedule, {"betas": {}}, "schedule")


def test_a_schedule_of_other_betas_than_the_teachers_is_refused():
    model = denoiser(0.0)
    model.check_schedule(Schedule(kind="trailing"))
    for kind in ("polynomial", "discrete"):
        model.check_schedule(Schedule(kind=kind, t_max=14.6146412))
        with pytest.raises(UserError, match=r"schedule.t_max = 80 is beyond the network's last noise level, 14.6146: write that, or less"):
            model.check_schedule(Schedule(kind=kind))
    model.check_schedule(Schedule(kind="discrete", betas=SD, t_max=14))
    with pytest.raises(
        UserError, match=r"schedule.betas give 1000 levels from 0.0387589 to 83.8225, the network has 1000 levels from 0.0291672"
    ):
        model.check_schedule(Schedule(kind="discrete", betas=LSUN))
    other = DiscreteTimeDenoiser(Constant(0.0), DiscreteTime(**LSUN.model_dump()))
    with pytest.raises(UserError, match="a schedule without betas has Stable Diffusion's"):
        other.check_schedule(Schedule(kind="discrete"))


def test_the_law_of_time_steps_draws_them_evenly():
    levels = noise_levels(LSUN)
    drawn = draw_sigma(DiscreteSteps(betas=LSUN), 200_000, Draw(0, "sigma"))
    steps = time_in("ln-sigma", drawn.double(), levels).round()
    assert (steps.min(), steps.max()) == (20, 980)
    counts = np.bincount(steps.long().numpy())[20:]
    assert counts.min() > 208 - 5 * math.sqrt(208) and counts.max() < 208 + 5 * math.sqrt(208)
    with pytest.raises(UserError, match="first <= last < 1000 is needed; found first = 20, last = 1000"):
        validate(DiscreteSteps, {"last": 1000}, "noise")


def test_sigmas_of_the_library_are_within_its_single_precision():
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing")
    scheduler.set_timesteps(8)
    torch.testing.assert_close(scheduler.sigmas[:-1].double(), schedule("trailing", 9, 0.02, 80.0, 1.0)[:-1], rtol=3e-6, atol=0)


def test_a_law_of_other_time_steps_than_the_teachers_is_refused():
    model = denoiser(0.0)
    model.check_noise(DiscreteSteps())
    model.check_noise(LogNormal())
    with pytest.raises(
        UserError, match=r"noise law.betas give 1000 levels from 0.0387589 to 83.8225, the network has .* into the noise law"
    ):
        model.check_noise(DiscreteSteps(betas=LSUN))
    with pytest.raises(UserError, match=r"sigma_max = 80 of the noise law is beyond the network's last noise level, 14.6146"):
        model.check_noise(KarrasGrid())


def test_a_level_beyond_the_last_step_is_refused_by_number_and_by_step():
    model = denoiser(0.0)
    assert model.level(14.61) == 14.61 and model.level(TimeStep(t=999)) == pytest.approx(14.6146412, rel=1e-6)
    for at, message in ((80.0, "the noise level 80 is beyond the network's last"), (TimeStep(t=1000), "{t: 1000} is beyond")):
        with pytest.raises(UserError, match=message):
            model.level(at)
