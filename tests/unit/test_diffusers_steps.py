"""SFD-v's step condition in U-Nets of the diffusers library, and their own switch for recomputed blocks."""

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel, UNet2DModel
from latent_pipelines import LSUN, SD15, SDXL, UNET, moved
from own_inputs import TINY_UNET

from backtrail.conditions import Condition
from backtrail.errors import UserError
from backtrail.export.program import Programs
from backtrail.methods.sfd import family
from backtrail.nets.build import at_step_condition, construct, load_denoiser, save_denoiser, with_step_condition
from backtrail.nets.diffusers_steps import tell_steps
from backtrail.nets.discrete_time import DiffusersTeacher
from backtrail.nets.step_condition import is_step_parameter
from backtrail.parameters.runtime import Runtime
from backtrail.running.torch_stage import TorchStage
from backtrail.tensors import load_tensors
from unit.test_trajectory_distillation import parameters

torch.set_num_threads(1)
PIXELS = {**TINY_UNET, "sample_size": 8, "in_channels": 3, "out_channels": 3}
KINDS = {
    "unconditional": ("UNet2DModel", PIXELS),
    "classes": ("UNet2DModel", PIXELS | {"num_class_embeds": 5, "resnet_time_scale_shift": "scale_shift"}),
    "sd": ("UNet2DConditionModel", UNET),
    "sdxl": ("UNet2DConditionModel", SDXL),
}


def teacher(name):
    kind, unet = KINDS[name]
    made = construct(DiffusersTeacher(kind=kind, unet=unet))
    moved(made.net)
    return made


def inputs(denoiser, name: str, n: int = 2) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    random = torch.Generator().manual_seed(3)
    told = {"labels": torch.arange(n)} if name == "classes" else {}
    if name.startswith("sd"):
        told["tokens"] = torch.randn(n, 7, denoiser.net.config.cross_attention_dim, generator=random)
    if name == "sdxl":
        told |= {"pooled": torch.randn(n, 12, generator=random), "time_ids": torch.full((n, 6), 16.0)}
    return torch.randn(n, *denoiser.image_shape, generator=random), torch.tensor([0.5, 3.0]), Condition(**told)


def at(denoiser, name: str, steps: float | None) -> torch.Tensor:
    x, sigma, told = inputs(denoiser, name)
    known = told.told if steps is None else {**told.told, "steps": torch.full((len(x),), steps)}
    with torch.no_grad():
        return denoiser(x, sigma, Condition(**known))


def trained(student):
    """The student with new layers that say something."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in student.named_parameters():
            if is_step_parameter(name):
                value.add_(0.1 * torch.randn(value.shape, generator=random))
    return student


@pytest.mark.parametrize("name", KINDS)
def test_it_starts_as_nothing_is_written_and_folds_back(name, tmp_path):
    plain = teacher(name)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    student = with_step_condition(plain, seed=3)
    assert student.step_condition and not plain.step_condition and plain.state_dict().keys() == before.keys()
    for steps in (None, 4.0, 7.0):
        assert torch.equal(at(student, name, steps), at(plain, name, None))
    drawn = [with_step_condition(plain, seed, random_start=True) for seed in (3, 3, 4)]
    first, again, other = (at(made, name, 5.0) for made in drawn)
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first, at(plain, name, None))
    assert torch.equal(at(drawn[0], name, None), at(plain, name, None))

    trained(student)
    four, seven = at(student, name, 4.0), at(student, name, 7.0)
    assert not torch.allclose(four, seven, atol=1e-4)
    copied = copy.deepcopy(student)
    copied.net.map_step.layer1.bias.data += 1
    assert torch.equal(at(student, name, 4.0), four) and not torch.equal(at(copied, name, 4.0), four)
    save_denoiser(tmp_path / "student.safetensors", student)
    read = load_denoiser(tmp_path / "student.safetensors")
    assert read.configuration.step_condition and torch.equal(at(read, name, 4.0), four)
    folded = at_step_condition(student, 7)
    assert not folded.step_condition and folded.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(at(folded, name, None), seven, rtol=1e-4, atol=1e-5)


def test_one_condition_may_differ_from_image_to_image():
    student, name = trained(with_step_condition(teacher("sdxl"))), "sdxl"
    x, sigma, told = inputs(student, name)
    with torch.no_grad():
        mixed = student(x, sigma, Condition(**told.told, steps=torch.tensor([4.0, 7.0])))
    torch.testing.assert_close(mixed[0], at(student, name, 4.0)[0]), torch.testing.assert_close(mixed[1], at(student, name, 7.0)[1])


def test_the_embedding_is_that_of_time_on_the_raw_number():
    """cos and sin of the number of time stamps, as Stable Diffusion's own embedding of t = 4, through three layers."""
    student = with_step_condition(teacher("sd"), seed=2, random_start=True)
    net, steps = student.net, torch.tensor([4.0])
    code = net.time_proj(steps)
    first = torch.nn.functional.silu(code @ net.map_step.layer0.weight.T + net.map_step.layer0.bias)
    torch.testing.assert_close(net.map_step.linear(steps), first @ net.map_step.layer1.weight.T + net.map_step.layer1.bias)
    block = net.mid_block.resnets[0]
    bound = block.time_emb_proj.in_features**-0.5
    assert 0.9 * bound < block.time_emb_proj.affine_step.weight.abs().max() <= bound


@pytest.mark.parametrize(
    ("kind", "unet", "before", "new"),
    [(UNet2DConditionModel, SD15, 859_520_964, 27_875_520), (UNet2DModel, LSUN, 274_056_163, 12_659_136)],
    ids=["sd15", "lsun"],
)
def test_it_has_the_released_number_of_weights(kind, unet, before, new):
    with torch.device("meta"):
        net = kind(**unet)
        assert sum(value.numel() for value in net.parameters()) == before
        sizes = {name: value.numel() for name, value in tell_steps(net).named_parameters()}
    assert sum(sizes.values()) == before + new
    assert sum(size for name, size in sizes.items() if is_step_parameter(name)) == new


def test_a_file_of_a_teacher_says_nothing_of_steps(tmp_path):
    save_denoiser(tmp_path / "teacher.safetensors", teacher("sd"))
    assert "step_condition" not in load_tensors(tmp_path / "teacher.safetensors")[1]["denoiser"]


def test_a_unet_without_a_place_for_it_is_refused():
    for kind, unet, found in (
        ("UNet2DConditionModel", UNET | {"resnet_skip_time_act": True}, "resnet_skip_time_act = True"),
        ("UNet2DModel", PIXELS | {"down_block_types": ["KDownBlock2D", "DownBlock2D"]}, "adaptive group norms"),
    ):
        made = construct(DiffusersTeacher(kind=kind, unet=unet))
        with pytest.raises(UserError, match=f"{found}.*choose step_condition = none"):
            with_step_condition(made)


def gradients(denoiser, name: str) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of two calls with different steps, descended together, and the bytes that were kept for them."""
    x, sigma, told = inputs(denoiser, name)
    denoiser.requires_grad_(True).zero_grad()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = sum(denoiser(x, sigma, Condition(**told.told, steps=torch.full((2,), n))).square().sum() for n in (4.0, 7.0))
    loss.backward()
    own = {value.untyped_storage().data_ptr() for value in denoiser.parameters()}
    return {key: value.grad for key, value in denoiser.named_parameters()}, sum(n for at, n in kept.items() if at not in own)


@pytest.mark.parametrize("name", ["classes", "sdxl"])
def test_recomputed_blocks_are_told_the_same_and_keep_less(name):
    plain = teacher(name)
    stage = TorchStage(SimpleNamespace(name="", params={}), runtime=Runtime(checkpointing=True))
    student = trained(with_step_condition(stage.place(copy.deepcopy(plain))))
    assert student.net.is_gradient_checkpointing and not plain.net.is_gradient_checkpointing
    expected, all_kept = gradients(trained(with_step_condition(plain)), name)
    found, kept = gradients(student, name)
    assert expected.keys() == found.keys() and kept < 0.7 * all_kept
    for key, gradient in expected.items():
        assert torch.equal(found[key], gradient), key


def test_a_student_computes_as_its_teacher_was_placed():
    stage = TorchStage(SimpleNamespace(name="", params={}), runtime=Runtime(precision="bfloat16"))
    student = with_step_condition(stage.place(teacher("sd")))
    assert student.autocast == torch.bfloat16 and at(student, "sd", 4.0).dtype == torch.float32


@pytest.mark.slow
def test_an_exported_student_has_a_unet_for_each_number_of_evaluations(tmp_path):
    student = trained(with_step_condition(teacher("unconditional"))).eval()
    p = parameters(num_steps=[4, 5], step_condition="zero", schedule={"t_min": 0.05, "t_max": 10.0})
    save_denoiser(tmp_path / "student.safetensors", student, cost=1, sampling=family.sampling(p).model_dump(mode="json"))
    Programs().write(tmp_path / "student.safetensors", tmp_path / "out")
    x, sigma = inputs(student, "unconditional")[0], torch.tensor(1.5)
    program = torch.export.load(tmp_path / "out/student.pt2").module()
    for way in family.sampling(p).samplers(None, [1.0]):
        told = torch.full((2,), float(way.num_steps))
        expected = student(x, sigma, Condition(steps=told))
        many = torch.cat([x, x.new_zeros(62, *x.shape[1:])])
        torch.testing.assert_close(program(many, sigma, steps=torch.full((64,), told[0].item()))[:2], expected, rtol=1e-4, atol=1e-5)
        net = UNet2DModel.from_pretrained(tmp_path / f"out/nfe{way.nfe}/unet")
        again = at_step_condition(student, way.num_steps)
        assert all(torch.equal(value, again.net.state_dict()[name]) for name, value in net.state_dict().items())
        assert EulerDiscreteScheduler.from_pretrained(tmp_path / f"out/nfe{way.nfe}/scheduler").config.beta_end == 0.02
